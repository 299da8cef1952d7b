"""How much few labels of another data set are worth: `adapt` beside the old head and beside fitting anew.

    python examples/benchmarks/adapt.py SOURCE NAME=RUN... [--reward PATH] [--draws 20] [--output FILE.json]

SOURCE is a run directory with a fitted reward model, each RUN has a capture of the same model and layers.
Half of the prompts of each RUN, drawn anew each time, are for testing; from the others 10, 30 and 100 pairs
are drawn. On the same pairs, with the same folds and the same penalties, are fitted
- the old head moved towards them (`sparserm adapt`),
- a linear head anew on the same directions: the same with an old head that scores everything 0,
- a linear head anew on the pooled vectors themselves (dense).
Printed are mean accuracies on the test half, with the 2.5 and 97.5 % quantiles over the draws in brackets.
The draws share their prompts, so the brackets tell how much depends on which pairs were drawn, not how other
data would turn out.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sparserm_cli.models.head.heads import scores_of
from sparserm_cli.models.head.projections import projections
from sparserm_cli.stages.fit.adaptation import adaptation, shifted
from sparserm_cli.store.artifacts.reward import RewardFiles, read_reward, reward_path
from sparserm_cli.store.capture.artifact import open_capture

LABELS = (10, 30, 100)
METHODS = ("old head", "adapted", "anew, same directions", "anew, dense")


class Target(NamedTuple):
    """The pairs of a data set: what each head sees of them, and their prompts."""

    x: np.ndarray
    """Standardised projections of the responses, by the old head's means and deviations."""
    dense: np.ndarray
    """Standardised pooled vectors of the responses."""
    pairs: np.ndarray
    groups: np.ndarray


def read_target(run: Path, files: RewardFiles) -> Target:
    """Read a run's pairs whose responses have vectors."""
    capture, config, head = open_capture(run), files.config, files.head
    stored, present = capture.pairs(), capture.present()
    usable = present[stored.chosen] & present[stored.rejected]
    both = np.stack([stored.chosen, stored.rejected], axis=1)[usable]
    rows, places = np.unique(both, return_inverse=True)
    taken = projections(capture, config.layers, config.pool, head.directions, rows)
    dense = projections(capture, config.layers, "mean", None, rows)
    dense = (dense - dense.mean(0)) / dense.std(0)
    groups = capture.response_group()[stored.chosen][usable]
    return Target((taken - head.mean) / head.std, dense, places.reshape(-1, 2), groups)


def accuracies(target: Target, files: RewardFiles, count: int, seed: int) -> dict[str, float]:
    """Fit every method on some pairs, and return its accuracy on the pairs of the test prompts."""
    generator = np.random.default_rng(seed)
    prompts = generator.permutation(np.unique(target.groups))
    tested = np.isin(target.groups, prompts[: len(prompts) // 2])
    learned = generator.choice(np.flatnonzero(~tested), count, replace=False)
    pairs, groups = target.pairs[learned], target.groups[learned]

    def differences(of: np.ndarray, which: np.ndarray) -> np.ndarray:
        return (of[which[:, 0]] - of[which[:, 1]]).astype(np.float64)

    def right(scores: np.ndarray) -> float:
        test = target.pairs[tested]
        return float(np.mean(scores[test[:, 0]] > scores[test[:, 1]]))

    def anew(of: np.ndarray) -> float:
        known = differences(of, pairs)
        fitted = adaptation(known, np.zeros(count), groups, repeats=5, seed=seed)
        # Where no strength is better than chance, the strongest one's direction: the mean difference.
        return right(of @ (fitted.shift if fitted.strength is not None else known.mean(0)))

    old = scores_of(files.head.weights, target.x)
    margins = differences(old[:, None], pairs)[:, 0]
    fitted = adaptation(differences(target.x, pairs), margins, groups, repeats=5, seed=seed)
    new = scores_of(shifted(files.head.weights, fitted.shift), target.x)
    values = (right(old), right(new), anew(target.x), anew(target.dense))
    return dict(zip(METHODS, values, strict=True)) | {"kept": float(fitted.strength is None)}


def interval(values: np.ndarray, *, signed: bool = False) -> str:
    """Write a mean with the quantiles over the draws."""
    mean, low, high = values.mean(), *np.quantile(values, [0.025, 0.975])
    sign = "+" if signed else ""
    return f"{mean:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def main() -> int:
    """Measure every data set, print one table, and write every draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="run directory of the reward model")
    parser.add_argument("targets", nargs="+", metavar="NAME=RUN", help="runs to adapt to")
    parser.add_argument("--reward", type=Path, help="reward model, if it is not SOURCE/reward")
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--output", type=Path, help="JSON file with every draw")
    options = parser.parse_args()
    files = read_reward(options.reward or reward_path(options.source))
    print(f"| data | pairs | {' | '.join(METHODS)} | adapted less old | less anew | old head kept |")
    print("|---" * (len(METHODS) + 5) + "|")
    results: dict[str, Any] = {}
    for name, _, run in (text.partition("=") for text in options.targets):
        target = read_target(Path(run), files)
        for count in LABELS:
            draws = [accuracies(target, files, count, seed) for seed in range(options.draws)]
            results[f"{name}, {count}"] = draws
            columns = {key: np.array([draw[key] for draw in draws]) for key in draws[0]}
            cells = [interval(columns[method]) for method in METHODS]
            gains = [columns["adapted"] - columns[other] for other in (METHODS[0], METHODS[2])]
            cells += [interval(gain, signed=True) for gain in gains]
            kept = f"{int(columns['kept'].sum())} of {options.draws}"
            print(f"| {name} | {count} | {' | '.join(cells)} | {kept} |", flush=True)
    if options.output:
        options.output.write_text(json.dumps(results, indent=1) + "\n", encoding="ascii")
    return 0


if __name__ == "__main__":
    sys.exit(main())
