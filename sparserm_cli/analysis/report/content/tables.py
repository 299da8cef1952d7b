"""The report's tables: accuracies, wrong pairs, provenance."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64

from sparserm_cli.analysis.report.content.stored_scores import PairScores, StoredScores
from sparserm_cli.analysis.report.content.texts import Words
from sparserm_cli.formatting import percent
from sparserm_cli.store.artifacts.reward import Metric
from sparserm_cli.store.run.artifacts import Artifact

_PAIR_TOKENS = 300
_SPLITS = {"validation": "validation", "train": "all, fitted"}
"""How the page names the sets of pairs that `fit` measures on."""


class AccuracyTable(NamedTuple):
    """Accuracies of several scorers, the reward model's first.

    Fields:
        columns: what is told of each.
        rows: name of a scorer and its cells.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]


class WrongPair(NamedTuple):
    """One pair whose rejected response scores higher.

    Fields:
        row: of the input, from 1.
        margin: chosen score less rejected score.
        prompt: what both answer.
        chosen: text and score of the chosen response.
        rejected: text and score of the rejected one.
    """

    row: int
    margin: float
    prompt: str
    chosen: tuple[str, float]
    rejected: tuple[str, float]


class ArtifactRow(NamedTuple):
    """One artifact of the chain.

    Fields:
        name: such as activations.
        state: complete, stale, ...
        detail: what is wrong with it, if anything.
        digest: of its content.
        parents: name and digest of what it was made from.
        settings: field and value, as they were recorded.
    """

    name: str
    state: str
    detail: str
    digest: str
    parents: tuple[tuple[str, str], ...] = ()
    settings: tuple[tuple[str, str], ...] = ()


def fit_table(metrics: Sequence[Metric]) -> AccuracyTable:
    """Return the accuracies that `fit` measured."""
    splits = [name for name in _SPLITS if any(metric.split == name for metric in metrics)]
    metric_of = {(metric.scorer, metric.split): metric for metric in metrics}
    columns: list[str] = []
    for split in splits:
        pairs = next(metric.pairs for metric in metrics if metric.split == split)
        columns += [f"{_SPLITS[split]}, {pairs:,} pairs", "95 % interval"]
    rows = []
    for scorer in dict.fromkeys(metric.scorer for metric in metrics):
        cells: list[str] = []
        for split in splits:
            metric = metric_of.get((scorer, split))
            cells += (
                ["", ""] if metric is None else [percent(metric.accuracy), interval(metric.low, metric.high)]
            )
        rows.append((scorer, tuple(cells)))
    return AccuracyTable(tuple(columns), tuple(rows))


def evaluation_table(metrics: Mapping[str, Any]) -> AccuracyTable:
    """Return what `evaluate` measured, by the rules of its benchmark."""
    scorers: Mapping[str, Mapping[str, Any]] = metrics["scorers"]
    columns: tuple[str, ...]
    if "pairs" in metrics:
        columns = ("accuracy", "95 % interval", "reward less this", "pairs", "prompts", "ties")
        rows = [(name, _pair_cells(results)) for name, results in scorers.items()]
    elif metrics["benchmark"] == "rm-bench":
        columns = ("hard", "normal", "easy", "total", "95 % interval")
        rows = [(name, _rm_bench_cells(results, columns[:3])) for name, results in scorers.items()]
    else:
        columns = (*metrics["prompts"], "score", "95 % interval")
        rows = [(name, _best_of_n_cells(results, columns[:-2])) for name, results in scorers.items()]
    return AccuracyTable(columns, tuple(rows))


def wrong_pairs(
    pairs: PairScores, taken: Int64[np.ndarray, " most"], stored: StoredScores, words: Words
) -> Iterator[WrongPair]:
    """Yield pairs with their texts and scores."""
    for pair in taken:
        chosen, rejected = int(pairs.chosen[pair]), int(pairs.rejected[pair])
        yield WrongPair(
            int(pairs.row[pair]),
            float(pairs.margin[pair]),
            words.prompt(chosen),
            (words.response(chosen, _PAIR_TOKENS), float(stored.scores[chosen])),
            (words.response(rejected, _PAIR_TOKENS), float(stored.scores[rejected])),
        )


def provenance(artifacts: Sequence[Artifact]) -> Iterator[ArtifactRow]:
    """Yield the artifacts with everything they say of themselves."""
    for artifact in artifacts:
        if artifact.lineage is None:
            yield ArtifactRow(artifact.name, artifact.state, artifact.detail, "")
            continue
        parents = tuple((name, parent.digest) for name, parent in artifact.lineage.parents.items())
        settings = tuple((field, _shown(value)) for field, value in artifact.lineage.identity.items())
        yield ArtifactRow(
            artifact.name, artifact.state, artifact.detail, artifact.lineage.digest, parents, settings
        )


def interval(low: float, high: float) -> str:
    """Write an interval of shares."""
    return f"{100 * low:.1f} to {100 * high:.1f} %"


def _pair_cells(results: Mapping[str, Any]) -> tuple[str, ...]:
    gap = results.get("reward_less_this")
    shown = ""
    if gap is not None:
        shown = f"{100 * gap['value']:+.1f} [{100 * gap['low']:+.1f}, {100 * gap['high']:+.1f}]"
    counts = (f"{results[name]:,}" for name in ("pairs", "prompts", "ties"))
    return (percent(results["accuracy"]), interval(results["low"], results["high"]), shown, *counts)


def _rm_bench_cells(results: Mapping[str, Any], parts: Sequence[str]) -> tuple[str, ...]:
    domains = results["domains"].values()
    means = (percent(float(np.mean([domain[part] for domain in domains]))) for part in parts)
    return (*means, percent(results["total"]), interval(results["low"], results["high"]))


def _best_of_n_cells(results: Mapping[str, Any], subsets: Sequence[str]) -> tuple[str, ...]:
    parts = (percent(results["subsets"][subset]) for subset in subsets)
    return (*parts, percent(results["score"]), interval(results["low"], results["high"]))


def _shown(value: Any) -> str:
    """Write a recorded value on one line."""
    if isinstance(value, list):
        return ", ".join(_shown(item) for item in value)
    return value if isinstance(value, str) else json.dumps(value)
