"""`compare`: SparseRM beside what it must beat, on the same folds, swept over directions, labels and noise.

Reads: runs that have been captured and encoded; the language model is never run. Memory: that of `sample`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sparserm_cli.config import FitConfig, FrequencyConfig, Note, SelectConfig
from sparserm_cli.errors import UsageError
from sparserm_cli.study.crossvalidate import Protocol, Result, compared, crossvalidate, transfer
from sparserm_cli.study.methods import Method
from sparserm_cli.study.sample import Sample

Steps = Callable[[str, int, int], None]
"""Told the sweep, fits done and fits in all."""

SPARSERM = Method("SparseRM, linear")
"""What everything is compared with: directions under a head that is convex, fast and without a seed."""
DEFAULTS = Method(
    "SparseRM, defaults",
    top_k=SelectConfig.top_k,
    by=SelectConfig.by,
    unit=FrequencyConfig.unit,
    pool=FitConfig.pool,
    head=FitConfig.head,
    loss=FitConfig.loss,
)
"""The options of `frequency`, `select` and `fit` as they are when nothing is said."""
CONTROLS = (
    Method("random latents' rows", kind="random-latents"),
    Method("components of responses", kind="components"),
    Method("components of pairs", kind="pair-components"),
    Method("random directions", kind="random-directions"),
)
"""Other directions in the same number, with the same head."""
UNSWEPT = (
    Method("SAE latents, mean", kind="latent-means", top_k=128),
    Method("SAE latents, maximum", kind="latent-maxima", top_k=128),
    Method("dense, linear", kind="dense", top_k=None),
    Method("dense, MLP", kind="dense", top_k=None, head="mlp", loss="margin"),
    Method("difference of means", kind="means", top_k=None),
    Method("length only", kind="length", top_k=None),
    Method("chance", kind="chance", top_k=None),
)
"""What has no number of directions to sweep."""
VARIANTS = (
    *(Method(f"SparseRM, by {by}", by=by) for by in ("standardised", "z", "mcnemar", "mutual-information")),
    *(Method(f"SparseRM, by {by}", by=by) for by in ("stability", "greedy", "length-controlled")),
    Method("SparseRM, response frequency", unit="response"),
    Method("SparseRM, last token", pool="last"),
    Method("SparseRM, mean and last", pool="both"),
    Method("SparseRM, margin", loss="margin"),
    Method("SparseRM, bce", loss="bce"),
    Method("SparseRM, MLP, margin, mean and last", head="mlp", loss="margin", pool="both"),
    Method("SparseRM, MLP, margin, 128 a side", head="mlp", loss="margin", top_k=128),
    Method(
        "SparseRM, MLP, margin, 128 a side, mean and last", head="mlp", loss="margin", top_k=128, pool="both"
    ),
)
"""SparseRM with one or two options changed."""


@dataclass(frozen=True)
class Sweeps:
    """What is tried."""

    top_ks: tuple[int, ...] = (4, 8, 16, 32, 64, 128)
    """Directions a side."""
    train_pairs: tuple[int | None, ...] = (100, 300, 1000, None)
    """Training pairs, None for all."""
    flipped: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4)
    """Shares of training labels that are swapped."""
    variants: bool = True
    """Whether other selections, poolings, losses and heads are tried."""
    folds: int = 5
    """Parts of the prompts, each tested once."""
    seed: int = 0
    """Of folds and everything random."""


def compare(
    samples: Sequence[Sample], sweeps: Sweeps | None = None, *, progress: Steps, note: Note
) -> dict[str, Any]:
    """Try everything on every run, and each run's SparseRM on the other runs.

    Args:
        samples: the runs.
        sweeps: what is tried.
        progress: told the sweep and how far it is.
        note: told what is left out, and why.

    Returns:
        run to sweep to rows as JSON; each row has the method, accuracy with its interval over prompts, spread
        between folds, parameters, seconds, and how far SparseRM at that point is ahead of it, with interval.

    """
    sweeps = sweeps or Sweeps()
    found: dict[str, Any] = {}
    for sample in samples:
        found[sample.name] = {
            "pairs": len(sample.pairs),
            "prompts": len(set(sample.groups.tolist())),
            "directions": _by_directions(sample, sweeps, progress, note),
            "methods": _methods(sample, sweeps, progress, note),
            "labels": _by_labels(sample, sweeps, progress),
            "noise": _by_noise(sample, sweeps, progress),
            "transfer": _transfers(sample, samples, sweeps),
        }
    return {"protocol": {**vars(sweeps)}, "runs": found}


def _tried(
    sample: Sample, methods: Sequence[Method], protocol: Protocol, told: str, progress: Steps
) -> list[dict[str, Any]]:
    """Crossvalidate methods, the first of which is the reference of the others."""
    results = crossvalidate(
        sample,
        methods,
        protocol,
        progress=lambda done, total: progress(f"{sample.name}, {told}", done, total),
    )
    return [one.to_json() for one in compared(results, results[0], sample)]


def _by_directions(sample: Sample, sweeps: Sweeps, progress: Steps, note: Note) -> dict[str, Any]:
    """Sweep the number of directions a side."""
    rows = {}
    for top_k in sweeps.top_ks:
        methods = [replace(one, top_k=top_k) for one in (SPARSERM, *CONTROLS)]
        try:
            rows[str(top_k)] = _tried(
                sample, methods, Protocol(sweeps.folds, sweeps.seed), f"{top_k} directions a side", progress
            )
        except UsageError as error:
            note(f"{sample.name}: {top_k} directions a side left out: {error.found}")
    return rows


def _methods(sample: Sample, sweeps: Sweeps, progress: Steps, note: Note) -> list[dict[str, Any]]:
    """Try everything at the default number of directions."""
    protocol = Protocol(sweeps.folds, sweeps.seed)
    rows: list[dict[str, Any]] = []
    try:
        extra = VARIANTS if sweeps.variants else ()
        same_head = [
            replace(DEFAULTS, name=f"{one.name}, defaults", kind=one.kind) for one in CONTROLS[-2:] if extra
        ]
        methods = [SPARSERM, DEFAULTS, *extra, *CONTROLS, *same_head, *UNSWEPT]
        rows = _tried(sample, methods, protocol, "all methods", progress)
    except UsageError as error:
        note(f"{sample.name}: methods with {SPARSERM.top_k} directions a side left out: {error.found}")
    return rows


def _by_labels(sample: Sample, sweeps: Sweeps, progress: Steps) -> dict[str, Any]:
    """Sweep the number of training pairs."""
    methods = _few_methods(sample)
    return {
        str(pairs or "all"): _tried(
            sample,
            methods,
            Protocol(sweeps.folds, sweeps.seed, train_pairs=pairs),
            f"{pairs or 'all'} pairs",
            progress,
        )
        for pairs in sweeps.train_pairs
        if pairs is None or pairs < len(sample.pairs)
    }


def _by_noise(sample: Sample, sweeps: Sweeps, progress: Steps) -> dict[str, Any]:
    """Sweep the share of swapped training labels."""
    methods = _few_methods(sample)
    return {
        f"{share:g}": _tried(
            sample,
            methods,
            Protocol(sweeps.folds, sweeps.seed, flipped=share),
            f"{share:.0%} flipped",
            progress,
        )
        for share in sweeps.flipped
    }


def _few_methods(sample: Sample) -> list[Method]:
    """Return what the other sweeps try: few directions, where selection can show, beside the controls."""
    d_in = min(vectors["mean"].shape[1] for vectors in sample.pooled.values())
    top_k = min(16, d_in // 4)
    dense = Method("dense, linear", kind="dense", top_k=None)
    return [*(replace(one, top_k=top_k) for one in (SPARSERM, *CONTROLS)), dense]


def _transfers(source: Sample, samples: Sequence[Sample], sweeps: Sweeps) -> dict[str, Any]:
    """Fit on one run and test on each other one that has the same layers."""
    rows = {}
    for target in samples:
        if target is not source and target.layers == source.layers:
            protocol = Protocol(sweeps.folds, sweeps.seed)
            results: list[Result] = transfer(source, target, _few_methods(source), protocol)
            rows[target.name] = [one.to_json() for one in compared(results, results[0], target)]
    return rows


def markdown(found: Mapping[str, Any]) -> str:
    """Return the comparison as Markdown tables, one run after the other."""
    parts = []
    for name, run in found["runs"].items():
        parts.append(f"### {name}: {run['pairs']:,} pairs of {run['prompts']:,} prompts")
        parts.append(_curve(run["directions"], "directions a side"))
        parts.append(_listing(run["methods"]))
        parts.append(_curve(run["labels"], "training pairs"))
        parts.append(_curve(run["noise"], "labels flipped"))
        for target, rows in run["transfer"].items():
            parts.append(_curve({f"tested on {target}": rows}, f"trained on {name}"))
    return "\n\n".join(part for part in parts if part) + "\n"


def _curve(points: Mapping[str, Sequence[Mapping[str, Any]]], what: str) -> str:
    """Return a sweep as a table: a row a point, a column a method, how far SparseRM is ahead in brackets."""
    if not points:
        return ""
    names = [row["method"]["name"] for row in next(iter(points.values()))]
    lines = [f"| {what} | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for point, rows in points.items():
        lines.append(f"| {point} | {' | '.join(_cell(row) for row in rows)} |")
    return "\n".join(lines)


def _cell(row: Mapping[str, Any]) -> str:
    """Return an accuracy; marked where SparseRM is surely ahead (-) or behind (+)."""
    against = row["against"]
    sign = (
        ""
        if against is None or against["low"] <= 0 <= against["high"]
        else "-"
        if against["low"] > 0
        else "+"
    )
    return f"{row['accuracy']['accuracy']:.3f}{sign}"


def _listing(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return methods as a table, a line each."""
    if not rows:
        return ""
    lines = [
        "| method | accuracy | 95 % interval | between folds | parameters | seconds | SparseRM less this |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        accuracy, against = row["accuracy"], row["against"]
        ahead = "" if against is None else "{value:+.3f} ({low:+.3f} to {high:+.3f})".format(**against)
        spread = "" if row["fold_sd"] is None else f"{row['fold_sd']:.3f}"
        cells = (
            row["method"]["name"],
            f"{accuracy['accuracy']:.3f}",
            f"{accuracy['low']:.3f} to {accuracy['high']:.3f}",
            spread,
            f"{row['parameters']:,}",
            f"{row['seconds']:.1f}",
            ahead,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
