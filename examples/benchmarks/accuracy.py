"""Compare SparseRM with its controls by grouped cross-validation on captured and encoded runs.

Every method sees the same folds, split by prompt; directions are selected inside the training folds,
penalties and early stopping use validation prompts inside them, and nothing is tuned on the test fold.

    python examples/benchmarks/accuracy.py --run TruthfulQA=DIR --run HH-RLHF=DIR --output accuracy.json
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparserm_cli.study.crossvalidate import Protocol, Result, compared, crossvalidate, transfer
from sparserm_cli.study.methods import Method
from sparserm_cli.study.sample import Sample, load_sample

SWEPT = {
    "SparseRM": "selected",
    "random latents": "random-latents",
    "random directions": "random-directions",
    "principal components": "components",
    "principal components of pairs": "pair-components",
}
"""What is swept over K, all with the default head: linear, Bradley-Terry, on mean-pooled vectors."""
SIZES = (4, 8, 16, 32, 64, 128)
DEFAULT = "SparseRM K=64"


def methods(sizes: Sequence[int], *, quick: bool) -> list[Method]:
    """Return everything that is compared."""
    swept = [Method(f"{name} K={k}", kind, top_k=k) for k in sizes for name, kind in SWEPT.items()]
    whole = [
        Method("dense", "dense", top_k=None),
        Method("dense, both poolings", "dense", top_k=None, pool="both"),
        Method("difference of means", "means", top_k=None),
        Method("length only", "length", top_k=None),
        Method("chance", "chance", top_k=None),
    ]
    mlp: dict[str, Any] = {"head": "mlp", "loss": "margin"}
    paper = [
        Method("SparseRM K=64, MLP", top_k=64, **mlp),
        Method("SparseRM K=128, MLP", top_k=128, **mlp),
        Method("SparseRM K=128, MLP, both poolings", top_k=128, pool="both", **mlp),
        Method("random directions K=128, MLP", "random-directions", top_k=128, **mlp),
        Method("dense, MLP", "dense", top_k=None, **mlp),
    ]
    return [*swept, *whole, *([] if quick else paper)]


def row(one: Result) -> str:
    """Return a line of the table of methods."""
    accuracy, gap = one.accuracy, one.against
    interval = f"{accuracy.low:.3f} to {accuracy.high:.3f}"
    ahead = "" if gap is None else f"{gap.value:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]"
    spread = f"{one.fold_sd:.3f}"
    name, size = one.method.name, f"{one.parameters:,}"
    return (
        f"| {name} | {accuracy.accuracy:.3f} | {interval} | {spread} | {ahead} | {size} | {one.seconds:.0f} |"
    )


def tables(sample: Sample, results: Sequence[Result], sizes: Sequence[int]) -> str:
    """Return the two tables of one run in Markdown."""
    by_name = {one.method.name: one for one in results}
    lines = [f"**{sample.name}**: {len(sample.pairs):,} pairs of {results[0].accuracy.prompts:,} prompts", ""]
    lines += [
        "| linear head, K a side | " + " | ".join(map(str, sizes)) + " |",
        "|---" * (len(sizes) + 1) + "|",
    ]
    for name in SWEPT:
        cells = " | ".join(f"{by_name[f'{name} K={k}'].accuracy.accuracy:.3f}" for k in sizes)
        lines.append(f"| {name} | {cells} |")
    lines += ["", "| method | accuracy | 95 % interval | fold sd | default less this | parameters | s |"]
    lines.append("|---" * 7 + "|")
    swept = {f"{name} K={k}" for name in SWEPT for k in sizes}
    shown = [one for one in results if one.method.name not in swept or one.method.name.endswith("K=64")]
    lines += [row(one) for one in shown]
    return "\n".join(lines)


def transfers(samples: Sequence[Sample], protocol: Protocol) -> tuple[str, list[dict[str, Any]]]:
    """Fit on each run, test on each other one."""
    tried = [
        Method("SparseRM K=4", top_k=4),
        Method(DEFAULT),
        Method("principal components K=4", "components", top_k=4),
        Method("random directions K=64", "random-directions"),
        Method("dense", "dense", top_k=None),
        Method("length only", "length", top_k=None),
    ]
    lines, told = ["| trained on, tested on | method | accuracy | 95 % interval |", "|---|---|---|---|"], []
    for source in samples:
        for target in samples:
            if source is target:
                continue
            for one in transfer(source, target, tried, protocol):
                where = f"{source.name}, {target.name}"
                interval = f"{one.accuracy.low:.3f} to {one.accuracy.high:.3f}"
                lines.append(f"| {where} | {one.method.name} | {one.accuracy.accuracy:.3f} | {interval} |")
                told.append({"source": source.name, "target": target.name, **one.to_json()})
    return "\n".join(lines), told


def main() -> None:
    """Print the tables and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", action="append", required=True, metavar="NAME=DIR", help="repeatable")
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="K a side, must have 64")
    parser.add_argument("--quick", action="store_true", help="linear heads only")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="JSON file")
    options = parser.parse_args()
    sizes, protocol = [int(size) for size in options.sizes.split(",")], Protocol(seed=options.seed)
    samples, told = [], {}
    for text in options.run:
        name, _, folder = text.partition("=")
        sample = load_sample(name, Path(folder))
        samples.append(sample)
        found = crossvalidate(
            sample,
            methods(sizes, quick=options.quick),
            protocol,
            progress=lambda done, total, name=name: print(
                f"\r{name}: {done} of {total} fits", end="", file=sys.stderr
            ),
        )
        print(file=sys.stderr)
        reference = next(one for one in found if one.method.name == DEFAULT)
        results = compared(found, reference, sample)
        told[name] = [one.to_json() for one in results]
        print(tables(sample, results, sizes) + "\n", flush=True)
    if len(samples) > 1:
        text, told["transfer"] = transfers(samples, protocol)
        print(text)
    if options.output:
        options.output.write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main()
