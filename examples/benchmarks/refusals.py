"""Measure whether an edit or 30 labels mend a reward model that has learned to refuse.

    python examples/benchmarks/refusals.py RUN [--pairs examples/data/refusals.jsonl] [--output FILE.json]

RUN is a run directory with activations, latents, directions and a linear reward model of HH-RLHF harmless.
On the pairs that sound dangerous or are (`examples/data/README.md`) and on the run's validation pairs are
compared
- the reward model as it is, by the head that was not fitted on the validation pairs,
- the same without the k directions whose latents fire more often on refusals than on other responses of the
  training pairs (a refusal says in its first sentence that the assistant cannot, may not or will not),
- the same without the k directions whose parts give most to refusals,
- as a control, the same without k directions drawn at random (mean of ten draws),
- a new fit without these directions,
- the reward model adapted to 30 of the pairs, 15 of each part, and tested on the others (mean of 20 draws);
  alone, and beside 100 or 300 of the run's own training pairs.
Intervals of edits are over prompts; those of adaptations and random directions are quantiles over the draws.
"""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sparserm_cli.analysis.derivation.factors import with_factors
from sparserm_cli.analysis.derivation.own_run import OwnRun
from sparserm_cli.data.reader import Reader
from sparserm_cli.models.checkpoints.resolve import load_tokenizer
from sparserm_cli.models.head.attribution import direction_names
from sparserm_cli.models.head.heads import scores_of
from sparserm_cli.models.reward_model import RewardModel
from sparserm_cli.stages.fit.adaptation import adaptation, shifted
from sparserm_cli.statistics.pair_accuracy import difference, pair_accuracy
from sparserm_cli.store.artifacts.head_arrays import HeadArrays
from sparserm_cli.store.public.features import open_features

DATA = Path(__file__).parents[1] / "data" / "refusals.jsonl"
COUNTS, REPLAYED, DRAWS = (4, 8, 16, 32), (0, 100, 300), 20
REFUSES = re.compile(
    r"\b(can't|cannot|could not|won't|will not|not able|unable|must decline|refuse|don't (want|feel)|"
    r"(would|should)(n't| not)|not (going|comfortable|appropriate|something)|sorry|afraid)\b",
    re.IGNORECASE,
)


class Pairs(NamedTuple):
    """Pairs as the head sees them: standardised projections, chosen and rejected, prompts, part."""

    x: np.ndarray
    pairs: np.ndarray
    groups: np.ndarray
    part: np.ndarray

    def differences(self) -> np.ndarray:
        """Return chosen less rejected projections of each pair."""
        return (self.x[self.pairs[:, 0]] - self.x[self.pairs[:, 1]]).astype(np.float64)

    def margins(self, head: HeadArrays) -> np.ndarray:
        """Return chosen less rejected score of each pair."""
        scores = scores_of(head.weights, self.x).astype(np.float64)
        return scores[self.pairs[:, 0]] - scores[self.pairs[:, 1]]


def read_pairs(model: RewardModel, file: Path) -> Pairs:
    """Run the model on the pairs of a file."""
    examples = list(Reader(file, purpose="pairs"))
    rows = model.template.tokenize(examples)
    x = model.head.standardised(model.pooled(rows)).numpy()
    places = np.arange(len(x)).reshape(-1, 2)
    part = np.array([example.subset for example in examples])
    return Pairs(x, places, np.arange(len(places)).astype(np.uint64), part)


def refusing(own: OwnRun) -> np.ndarray:
    """Tell of each response of the pairs whether its first sentence refuses."""
    from sparserm_cli.models.checkpoints.resolve import resolve_model

    tokenizer = load_tokenizer(resolve_model(own.files.config.model, offline=True))
    texts = [tokenizer.decode(own.capture.token_ids(int(row))[:40]) for row in own.split.rows]
    return np.array([bool(REFUSES.search(re.split(r"[.!?\n]", text.strip())[0])) for text in texts])


def by_firing(own: OwnRun, refuses: np.ndarray, train: np.ndarray, run: Path) -> np.ndarray:
    """Return how much more often each latent fires on a refusal than on another training response."""
    layer = own.files.config.layers[0]
    fires = open_features(run).pooled(layer, "count")[own.split.rows].astype(bool)
    latents = own.files.config.selection["latents"][str(layer)]
    fires = np.asarray(fires[:, latents].todense(), dtype=float)
    return fires[train & refuses].mean(0) - fires[train & ~refuses].mean(0)


def by_part(own: OwnRun, refuses: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Return, for each projection, how much more its part gives to a refusal than to another response."""
    head = own.files.head
    parts = (own.taken - head.mean) / head.std * head.weights["weight"]
    return parts[train & refuses].mean(0) - parts[train & ~refuses].mean(0)


def row_of(name: str, sets: tuple[Pairs, ...], head: HeadArrays, old: HeadArrays) -> dict[str, Any]:
    """Measure a head on every set of pairs, beside the old one."""
    row: dict[str, Any] = {"name": name}
    for pairs in sets:
        for part in sorted(set(pairs.part)):
            kept = pairs.part == part
            before, after = (pairs.margins(scorer)[kept] for scorer in (old, head))
            groups = pairs.groups[kept]
            gap = difference(after, before, groups)
            row[part] = {**pair_accuracy(after, groups)._asdict(), "less_old": gap._asdict()}
    return row


def adapted(
    pairs: Pairs, training: Pairs, validation: Pairs, head: HeadArrays, replayed: int
) -> dict[str, Any]:
    """Adapt to 15 pairs of each part beside some training pairs, and test on the others and on validation."""
    results: dict[str, list[float]] = {"answer": [], "refuse": [], "validation": []}
    for seed in range(DRAWS):
        generator = np.random.default_rng(seed)
        learned = np.concatenate(
            [
                generator.choice(np.flatnonzero(pairs.part == part), 15, replace=False)
                for part in ("answer", "refuse")
            ]
        )
        again = generator.choice(len(training.pairs), replayed, replace=False)
        known = [(pairs, learned), (training, again)]
        differences = np.concatenate([of.differences()[which] for of, which in known])
        margins = np.concatenate([of.margins(head)[which] for of, which in known])
        groups = np.concatenate([of.groups[which] for of, which in known])
        fitted = adaptation(differences, margins, groups, repeats=5, seed=seed)
        new = HeadArrays(head.mean, head.std, shifted(head.weights, fitted.shift), head.directions)
        tested = ~np.isin(np.arange(len(pairs.pairs)), learned)
        right = pairs.margins(new) > 0
        for part in ("answer", "refuse"):
            results[part].append(float(right[tested & (pairs.part == part)].mean()))
        results["validation"].append(float((validation.margins(new) > 0).mean()))
    beside = f" beside {replayed} of HH-RLHF" if replayed else ""
    return {
        "name": f"adapted to 30 pairs{beside}",
        **{part: over_draws(values) for part, values in results.items()},
    }


def over_draws(values: list[float]) -> dict[str, float]:
    """Return a mean with the quantiles over the draws."""
    low, high = np.quantile(values, [0.025, 0.975])
    return {"accuracy": float(np.mean(values)), "low": float(low), "high": float(high)}


def show(row: dict[str, Any]) -> str:
    """Write one line of the table."""
    cells = []
    for part in ("answer", "refuse", "validation"):
        value = row[part]
        text = f"{value['accuracy']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"
        if "less_old" in value and row["name"] != "as fitted":
            gap = value["less_old"]
            text += f", {gap['value']:+.3f} [{gap['low']:+.3f}, {gap['high']:+.3f}]"
        cells.append(text)
    return f"| {row['name']} | {' | '.join(cells)} |"


def main() -> int:
    """Measure every way to mend the reward model, and print one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--pairs", type=Path, default=DATA)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    model = RewardModel.load(options.run, device="cpu", offline=True)
    own = OwnRun.find(options.run, model.files)
    assert own is not None  # noqa: S101
    names = direction_names(model.head, model.config.selection)
    old = own.before_validation(names)
    assert old is not None  # noqa: S101
    x = (own.taken - old.mean) / old.std
    split = own.split
    held = split.pairs[split.validation]
    validation = Pairs(x, held, split.groups[split.validation], np.full(len(held), "validation"))
    small = read_pairs(model, options.pairs)
    sets = (small, validation)
    refuses, train = refusing(own), np.zeros(len(x), bool)
    train[np.unique(split.pairs[~split.validation])] = True
    chosen, rejected = split.pairs[~split.validation].T
    print(
        f"{int(refuses[train].sum())} of {int(train.sum())} training responses refuse: "
        f"{refuses[chosen].mean():.3f} of the chosen, {refuses[rejected].mean():.3f} of the rejected\n"
    )
    print("| reward model | should answer | should refuse | HH-RLHF validation |\n|---|---|---|---|")
    rows = [row_of("as fitted", sets, old, old)]
    print(show(rows[0]), flush=True)
    rankings = {"firing": by_firing(own, refuses, train, options.run), "part": by_part(own, refuses, train)}
    generator = np.random.default_rng(0)
    for way, value in rankings.items():
        order = np.argsort(-value)
        for count in COUNTS:
            factors = np.ones(len(names))
            factors[order[:count]] = 0
            head = with_factors(old, factors)
            rows.append(row_of(f"without {count} by {way}", sets, head, old))
            rows[-1]["directions"] = [names[at] for at in order[:count]]
            print(show(rows[-1]), flush=True)
        again = own.fitted(factors != 0).validated
        rows.append(row_of(f"new fit without {count} by {way}", sets, again, old))
        print(show(rows[-1]), flush=True)
    for count in COUNTS:
        draws = []
        for _ in range(10):
            factors = np.ones(len(names))
            factors[generator.choice(len(names), count, replace=False)] = 0
            draws.append(row_of("", sets, with_factors(old, factors), old))
        mean: dict[str, Any] = {"name": f"without {count} at random"}
        for part in ("answer", "refuse", "validation"):
            mean[part] = over_draws([draw[part]["accuracy"] for draw in draws])
        rows.append(mean)
        print(show(mean), flush=True)
    training = Pairs(x, own.split.pairs[~split.validation], split.groups[~split.validation], np.empty(0))
    for replayed in REPLAYED:
        rows.append(adapted(small, training, validation, old, replayed))
        print(show(rows[-1]), flush=True)
    if options.output:
        options.output.write_text(json.dumps(rows, indent=1) + "\n", encoding="ascii")
    return 0


if __name__ == "__main__":
    sys.exit(main())
