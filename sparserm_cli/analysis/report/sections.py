"""From what was found to what the page shows: the numbers at the top, the figures and the tables."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64

from sparserm_cli import __version__
from sparserm_cli.analysis.contexts import Firing
from sparserm_cli.analysis.report.content.directions import direction_rows
from sparserm_cli.analysis.report.content.explanations import ExplainedPair
from sparserm_cli.analysis.report.content.side_by_side import SideBySide
from sparserm_cli.analysis.report.content.stored_scores import PairScores, StoredScores
from sparserm_cli.analysis.report.content.tables import (
    evaluation_table,
    fit_table,
    interval,
    provenance,
    wrong_pairs,
)
from sparserm_cli.analysis.report.content.texts import Words
from sparserm_cli.analysis.report.figures import base as draw
from sparserm_cli.analysis.report.figures.base import Figure
from sparserm_cli.analysis.report.figures.latents import DRAWN_LATENTS, frequency_figure
from sparserm_cli.analysis.report.figures.sweeps import compared_runs, sweep_figures
from sparserm_cli.analysis.report.page import Card, DirectionTable, Evaluated, Origin, Page, WrongTable
from sparserm_cli.analysis.report.run_facts import Missing, RunFacts
from sparserm_cli.analysis.verdicts import evaluation_verdict, fit_verdict
from sparserm_cli.formatting import percent
from sparserm_cli.statistics.calibration import LengthBias, Reliability
from sparserm_cli.store.artifacts.frequency import Frequency
from sparserm_cli.store.artifacts.reward import Metric, RewardConfig
from sparserm_cli.store.run.artifacts import CORRUPT, INCOMPATIBLE, STALE

_BAD = {STALE, INCOMPATIBLE, CORRUPT}

FiringOf = Mapping[tuple[int, int], Firing]
"""Layer and feature to where the latent fires."""


class Scored(NamedTuple):
    """The stored pairs as the reward model sees them.

    Fields:
        stored: score and projections of each response.
        pairs: those that can be compared.
        reliability: set of pairs to its calibration.
        length: set of pairs to what length has to do with their scores.
    """

    stored: StoredScores
    pairs: PairScores
    reliability: Mapping[str, Reliability]
    length: Mapping[str, LengthBias]


class Findings(NamedTuple):
    """What the passes over a run have found.

    Fields:
        scored: the stored pairs.
        firing: where latents fire.
        wrong: the most wrong of the pairs.
        words: the texts of what is shown.
        explained: the most wrong and the most right pairs with the parts of their scores.
        beside: another run beside this one; None without one.
    """

    scored: Scored | Missing
    firing: FiringOf | Missing
    wrong: Int64[np.ndarray, " most"]
    words: Words | Missing
    explained: Mapping[str, Sequence[ExplainedPair]] | Missing
    beside: SideBySide | None


def page_of(name: str, run: RunFacts, findings: Findings) -> Page:
    """Return the page of a run.

    Args:
        name: of the run directory.
        run: what is there.
        findings: results of the passes over the run.

    """
    scored, reward, frequency = findings.scored, run.reward, run.frequency
    return Page(
        run=name,
        made=f"Made by sparserm {__version__} on {datetime.now(UTC):%Y-%m-%d %H:%M} UTC.",
        what=reward.reason if isinstance(reward, Missing) else _model_line(reward.config),
        warnings=[
            f"{artifact.name} is {artifact.state}: {artifact.detail}"
            for artifact in run.artifacts
            if artifact.state in _BAD
        ],
        cards=list(_cards(run, scored)),
        evaluation=run.evaluation if isinstance(run.evaluation, Missing) else _evaluated(run.evaluation),
        fit=reward if isinstance(reward, Missing) else fit_table(reward.config.metrics),
        fit_verdict="" if isinstance(reward, Missing) else fit_verdict(reward.config),
        comparison=[] if isinstance(run.comparison, Missing) else list(compared_runs(run.comparison)),
        figures=_figures(run, scored),
        frequencies=frequency if isinstance(frequency, Missing) else _frequency_names(frequency),
        counted="" if isinstance(frequency, Missing) else _counted(frequency),
        directions=_directions(run, findings),
        calibration={} if isinstance(scored, Missing) else _errors(scored.reliability),
        length=scored if isinstance(scored, Missing) else scored.length,
        wrong=_wrong(findings),
        explained=findings.explained,
        beside=findings.beside,
        origin=_origin(run),
    )


def _model_line(config: RewardConfig) -> str:
    """Return what a reward model is in one line."""
    latents: Mapping[str, Sequence[int]] = config.selection.get("latents", {})
    count = sum(len(features) for features in latents.values())
    blocks = ", ".join(map(str, config.layers))
    parts = (
        f"{config.model}, after block {blocks}",
        f"{count:,} directions",
        f"{config.pool} pooling",
        f"{config.head} head",
        f"{config.loss} loss",
        f"{config.dtype}",
    )
    return " · ".join(parts)


def _cards(run: RunFacts, scored: Scored | Missing) -> Iterator[Card]:
    """Yield the numbers at the top."""
    held_out = run.evaluation["scorers"] if isinstance(run.evaluation, dict) else {}
    if held_out and all("accuracy" in measured for measured in held_out.values()):
        yield from _accuracy_cards("Held-out accuracy", held_out)
    elif not isinstance(run.reward, Missing):
        validation = [metric for metric in run.reward.config.metrics if metric.split == "validation"]
        yield from _accuracy_cards(
            "Validation accuracy", {metric.scorer: vars(metric) for metric in validation}
        )
    if not isinstance(run.reward, Missing):
        training = run.reward.config.training
        prompts = f"of {training['train_prompts']:,} prompts" if "train_prompts" in training else ""
        yield Card("Fitted on", f"{training.get('train_pairs', 0):,} pairs", prompts)
    if not isinstance(scored, Missing):
        name, reliability = next(iter(scored.reliability.items()), ("", None))
        if reliability is not None:
            note = f"mean distance of confidence and accuracy on {name} pairs"
            yield Card("Calibration error", percent(reliability.error), note)


def _accuracy_cards(label: str, scorers: Mapping[str, Mapping[str, Any]]) -> Iterator[Card]:
    """Yield the reward model's accuracy and that of the best control."""
    names = list(scorers)
    if not names:
        return
    own = scorers[names[0]]
    note = f"{interval(own['low'], own['high'])}, {own['pairs']:,} pairs"
    yield Card(label, percent(own["accuracy"]), note)
    if len(names) > 1:
        best = max(names[1:], key=lambda name: float(scorers[name]["accuracy"]))
        gap = 100 * (own["accuracy"] - scorers[best]["accuracy"])
        yield Card(
            "Best control", percent(scorers[best]["accuracy"]), f"{best}: reward model {gap:+.1f} points"
        )


def _evaluated(metrics: Mapping[str, Any]) -> Evaluated:
    """Return what `evaluate` measured."""
    shared = metrics.get("prompts_shared_with_training")
    trained = f" {shared} of its prompts were trained on." if shared else ""
    rows = f"{metrics['file']}, {metrics['rows_accepted']:,} rows"
    where = f"{rows}, by the rules of {metrics['benchmark']}.{trained}"
    return Evaluated(where, evaluation_table(metrics), evaluation_verdict(metrics))


def _figures(run: RunFacts, scored: Scored | Missing) -> dict[str, Figure | Missing]:
    """Return all figures."""
    figures: dict[str, Figure | Missing] = {}
    metrics: Sequence[Metric] = () if isinstance(run.reward, Missing) else run.reward.config.metrics
    if metrics:
        figures["accuracy-figure"] = draw.accuracy_figure(metrics)
    if not isinstance(run.comparison, Missing):
        figures |= sweep_figures(run.comparison)
    if not isinstance(run.frequency, Missing):
        chosen = {} if isinstance(run.directions, Missing) else run.directions.layers
        for layer, name in _frequency_names(run.frequency).items():
            figures[name] = frequency_figure(layer, run.frequency.layers[layer], chosen.get(layer))
    if isinstance(scored, Missing):
        names = ("score", "margin", "reliability", "length", "length-accuracy")
        return figures | {f"{name}-figure": scored for name in names}
    stored, pairs = scored.stored, scored.pairs
    sides = (
        stored.scores[np.unique(responses)].astype(np.float64) for responses in (pairs.chosen, pairs.rejected)
    )
    return figures | {
        "score-figure": draw.score_figure(*sides),
        "margin-figure": draw.margin_figure(pairs),
        "reliability-figure": draw.reliability_figure(scored.reliability),
        "length-figure": draw.length_figure(pairs, scored.length["fitted"]),
        "length-accuracy-figure": draw.length_accuracy_figure(scored.length),
    }


def _frequency_names(frequency: Frequency) -> dict[int, str]:
    """Return the name of each layer's figure."""
    return {layer: f"frequency-figure-{layer}" for layer in frequency.layers}


def _counted(frequency: Frequency) -> str:
    """Return what the rates are shares of, in words."""
    totals = frequency.totals
    shares = totals.tokens if frequency.unit == "token" else totals.responses
    return (
        f"Shares of {shares[0]:,} chosen and {shares[1]:,} rejected {frequency.unit}s, counted on "
        f"{totals.pairs:,} training pairs of {totals.prompts:,} prompts. Latents that never fire are not "
        f"drawn, and of the others at most {DRAWN_LATENTS:,} beside the selected ones."
    )


def _directions(run: RunFacts, findings: Findings) -> DirectionTable | Missing:
    """Return the table of directions with their texts."""
    directions = run.directions
    if isinstance(directions, Missing):
        return directions
    words = findings.words
    contexts = findings.firing if isinstance(findings.firing, Missing) else words
    ends = findings.scored if isinstance(findings.scored, Missing) else words
    reward = run.made_of_directions
    if reward is None and not isinstance(ends, Missing):
        ends = Missing("the reward model was made of other directions: run `sparserm fit` again")
    rows = list(
        direction_rows(
            directions,
            reward,
            {} if isinstance(findings.firing, Missing) else findings.firing,
            None if isinstance(findings.scored, Missing) else findings.scored.stored,
            None if isinstance(words, Missing) else words,
            run.descriptions,
        )
    )
    count = sum(len(selected.feature) for selected in directions.layers.values())
    return DirectionTable(
        str(directions.lineage.identity.get("by", "statistic")).replace("_", " "),
        rows,
        None
        if run.descriptions is None
        else sum(bool(row.description and row.description["name"]) for row in rows),
        count - len(rows),
        contexts if isinstance(contexts, Missing) else None,
        ends if isinstance(ends, Missing) else None,
    )


def _errors(reliabilities: Mapping[str, Reliability]) -> dict[str, float]:
    return {name: reliability.error for name, reliability in reliabilities.items()}


def _wrong(findings: Findings) -> WrongTable | Missing:
    """Return the most wrong pairs."""
    if isinstance(findings.scored, Missing):
        return findings.scored
    if isinstance(findings.words, Missing):
        return findings.words
    rows = wrong_pairs(findings.scored.pairs, findings.wrong, findings.scored.stored, findings.words)
    return WrongTable(list(rows), findings.words.frame)


def _origin(run: RunFacts) -> Origin:
    """Return what the run was made from."""
    artifacts = list(provenance(run.artifacts))
    if isinstance(run.capture, Missing):
        return Origin(artifacts, (), ())
    metadata = run.capture.store.plan.metadata
    inputs = [(file.path, f"{file.bytes:,}", file.sha256) for file in run.capture.plan.settings.inputs]
    packages = [(str(name), str(version)) for name, version in dict(metadata.get("packages", {})).items()]
    return Origin(artifacts, inputs, packages)
