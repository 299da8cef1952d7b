"""How many labels a head needs when `suggest` chooses them: against chance, against uncertainty, and dense.

    python examples/benchmarks/suggest.py TruthfulQA=TruthfulQA.csv HH-RLHF=hh-rlhf.jsonl.gz --output out.json

Each data set is captured and encoded into .benchmarks/ (what is there is continued, not repeated). In each
draw three tenths of the prompts are kept for testing (3,000 of their pairs at most), and 2,000 pairs at most
of the others are the pool. Every way of choosing begins with the same 50 random pairs of different prompts,
and then chooses batches until it has 400: it selects directions by difference (64 per side), fits a linear
head whose penalty is chosen on a fifth of the labelled prompts, and chooses the next batch by that head. All
ways take a pair of a new prompt as long as there is one.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sparserm_cli.analysis.compare.methods import KINDS, Method, Training
from sparserm_cli.analysis.compare.run_sample import Sample, load_sample
from sparserm_cli.models.head.heads import fit_head, scores_of
from sparserm_cli.models.head.information import choose_pairs, information, label_variance
from sparserm_cli.models.head.pair_data import PairData, standardisation

ROOT = Path(__file__).parents[2]
LABELS = (50, 100, 150, 200, 300, 400)
TARGETS = (100, 200, 300)
TEST_PAIRS, POOL_PAIRS, SAMPLES = 3000, 2000, 2000
SPARSE, DENSE = Method("SparseRM"), Method("dense", kind="dense", top_k=None)
WAYS = {
    "random": (SPARSE, "random"),
    "uncertainty": (SPARSE, "uncertainty"),
    "suggest": (SPARSE, "suggest"),
    "dense, random": (DENSE, "random"),
    "dense, suggest": (DENSE, "suggest"),
}


class Fit(NamedTuple):
    """A linear head on labelled pairs.

    Fields:
        x: standardised features of every response.
        weight: its weights.
        precision: precision that the penalty stands for, per feature.
        scores: score of every response.
    """

    x: np.ndarray
    weight: np.ndarray
    precision: float
    scores: np.ndarray


def fitted(method: Method, sample: Sample, labelled: np.ndarray, seed: int) -> Fit:
    """Select directions and fit a head on the labelled pairs alone."""
    training = Training(sample, sample.pairs[labelled], sample.groups[labelled], seed)
    values = KINDS[method.kind](method, training)(sample)
    mean, std = standardisation(values, training.rows)
    x = (values - mean) / std
    used, places = np.unique(training.pairs, return_inverse=True)
    weight = np.ones(len(labelled), np.float32)
    data = PairData(x[used], places.reshape(-1, 2), training.validation, weight)
    head = fit_head(data, "linear", "bt", seed=seed)
    precision = float(head.facts["l2"]) * len(labelled)
    return Fit(x, head.weights["weight"], precision, scores_of(head.weights, x))


def one_per_prompt(worth: np.ndarray, prompts: np.ndarray, count: int) -> np.ndarray:
    """Return the pairs of the greatest worth, a second one of a prompt only when each has given one."""
    order = np.argsort(-worth, kind="stable")
    _, first = np.unique(prompts[order], return_index=True)
    rest = np.setdiff1d(np.arange(len(order)), first)
    return order[np.concatenate([np.sort(first), rest])][:count]


def chosen(
    way: str, fit: Fit, sample: Sample, known: np.ndarray, pool: np.ndarray, count: int, seed: int
) -> np.ndarray:
    """Return the pairs of the pool that are labelled next."""
    differences = fit.x[sample.pairs[pool, 0]] - fit.x[sample.pairs[pool, 1]]
    margins, prompts = differences @ fit.weight, sample.groups[pool]
    if way == "random":
        return pool[one_per_prompt(np.random.default_rng(seed).random(len(pool)), prompts, count)]
    if way == "uncertainty":
        return pool[one_per_prompt(-np.abs(margins), prompts, count)]
    difference = fit.x[sample.pairs[known, 0]] - fit.x[sample.pairs[known, 1]]
    precision = (
        information(difference, label_variance(difference @ fit.weight))
        + np.eye(len(fit.weight)) * fit.precision
    )
    return pool[choose_pairs(differences, label_variance(margins), prompts, precision, count).pairs]


def curve(way: str, sample: Sample, draw: int) -> list[float]:
    """Return the accuracy on the test prompts at each number of labels."""
    method, rule = WAYS[way]
    generator = np.random.default_rng(draw)
    prompts = generator.permutation(np.unique(sample.groups))
    held_out = np.isin(sample.groups, prompts[: len(prompts) * 3 // 10])
    test = sample.pairs[generator.permutation(np.flatnonzero(held_out))[:TEST_PAIRS]]
    pool = generator.permutation(np.flatnonzero(~held_out))[:POOL_PAIRS]
    labelled = pool[one_per_prompt(generator.random(len(pool)), sample.groups[pool], LABELS[0])]
    accuracies = []
    for step, wanted in enumerate([*LABELS[1:], None]):
        fit = fitted(method, sample, labelled, draw)
        accuracies.append(float(np.mean(fit.scores[test[:, 0]] > fit.scores[test[:, 1]])))
        if wanted is None:
            break
        free = np.setdiff1d(pool, labelled)
        new = free[~np.isin(sample.groups[free], sample.groups[labelled])]
        left = new if len(np.unique(sample.groups[new])) >= wanted - len(labelled) else free
        more = chosen(rule, fit, sample, labelled, left, wanted - len(labelled), 1000 * draw + step)
        labelled = np.concatenate([labelled, more])
    return accuracies


def labels_needed(accuracies: np.ndarray, target: float) -> float:
    """Return at how many labels a curve first reaches a target, between the points by straight lines."""
    if accuracies[0] >= target:
        return float(LABELS[0])
    for number in range(1, len(LABELS)):
        low, high = accuracies[number - 1 : number + 1]
        if high >= target:
            share = (target - low) / (high - low)
            return float(LABELS[number - 1] + share * (LABELS[number] - LABELS[number - 1]))
    return float("inf")


def summary(curves: dict[str, np.ndarray]) -> dict[str, object]:
    """Return mean curves, gains over chance and labels needed, with 95 % intervals over the draws."""
    draws = len(curves["random"])
    samples = np.random.default_rng(0).integers(0, draws, (SAMPLES, draws))
    result: dict[str, object] = {}
    for way, values in curves.items():
        means = values[samples].mean(axis=1)
        base = curves["random"][samples].mean(axis=1)
        gain = np.quantile(means - base, [0.025, 0.975], axis=0)
        needed = {}
        for target in TARGETS:
            place = LABELS.index(target)
            value = labels_needed(values.mean(axis=0), curves["random"].mean(axis=0)[place])
            drawn = [labels_needed(mean, own[place]) for mean, own in zip(means, base, strict=True)]
            needed[target] = [value, *np.quantile(drawn, [0.025, 0.975], method="nearest").tolist()]
        result[way] = {
            "accuracy": values.mean(axis=0).tolist(),
            "less_random": (values - curves["random"]).mean(axis=0).tolist(),
            "low": gain[0].tolist(),
            "high": gain[1].tolist(),
            "labels_needed": needed,
        }
    return result


def shown(name: str, result: dict[str, object], draws: int) -> str:
    """Return the tables of a data set as Markdown."""
    columns = [f"{name}, {draws} draws", *(f"{labels} labels" for labels in LABELS)]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for way, row in result.items():
        cells = [f"{value:.3f}" for value in row["accuracy"]]
        if way != "random":
            parts = zip(cells, row["less_random"], row["low"], row["high"], strict=True)
            cells = [f"{cell} ({gain:+.3f}, {low:+.3f} to {high:+.3f})" for cell, gain, low, high in parts]
        lines.append(f"| {way} | {' | '.join(cells)} |")
    columns = [name, *(f"as good as {target} at random" for target in TARGETS)]
    lines += ["", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for way, row in result.items():
        cells = ["{:.0f} ({:.0f} to {:.0f})".format(*row["labels_needed"][target]) for target in TARGETS]
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return "\n".join(lines).replace("inf", "over 400") + "\n"


def captured(name: str, file: str, rows: int | None, extra: Sequence[str]) -> Path:
    """Capture and encode a data set with the default model and the shipped SAE; return its run directory."""
    run = ROOT / ".benchmarks" / (name if rows is None else f"{name}, {rows} rows")
    limit = [] if rows is None else ["--limit", str(rows)]
    for words in (
        [
            "extract",
            file,
            "--model",
            "smollm2-135m",
            "--layer",
            "14",
            "--on-bad-row",
            "reject",
            *limit,
            *extra,
        ],
        ["encode", "--sae", str(ROOT / "examples/sae/smollm2-135m")],
    ):
        command = [sys.executable, "-m", "sparserm_cli", *words, "--run", str(run), "--quiet"]
        subprocess.run(command, check=True, stdout=sys.stderr)
    return run


def main() -> None:
    """Simulate every way of choosing on every data set, and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sets", nargs="+", metavar="NAME=FILE", help="data sets")
    parser.add_argument("--draws", type=int, default=20, help="draws of test prompts and of first labels")
    parser.add_argument("--rows", type=int, help="capture this many rows of each data set; all by default")
    parser.add_argument("--offline", action="store_true", help="never call the hub")
    parser.add_argument("--output", type=Path, help="JSON file of all curves")
    options = parser.parse_args()
    kept = {}
    for each in options.sets:
        name, _, file = each.partition("=")
        sample = load_sample(name, captured(name, file, options.rows, ["--offline"] * options.offline))
        curves = {way: np.array([curve(way, sample, draw) for draw in range(options.draws)]) for way in WAYS}
        result = summary(curves)
        print(shown(f"{name} ({len(sample.pairs):,} pairs)", result, options.draws), flush=True)
        kept[name] = {"summary": result, "curves": {way: values.tolist() for way, values in curves.items()}}
        if options.output:
            options.output.write_text(json.dumps(kept, indent=1) + "\n", encoding="ascii")


if __name__ == "__main__":
    main()
