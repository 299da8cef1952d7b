"""`report`: one HTML page that shows what a run has found; it needs no network and no other file.

Reads: whatever the run directory holds, `evaluation.json` among it. Writes: `report.html`.
Memory: one unit of activations or features, the row arrays (some 50 bytes a response and a pair), a score a
response, and bounded lists of what is shown.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64

from sparserm_cli.analysis.contexts import Firing, halves, over_quantiles
from sparserm_cli.analysis.firing import firing_of
from sparserm_cli.analysis.report.content.directions import SAMPLED, projection_of, shown_directions
from sparserm_cli.analysis.report.content.explanations import ExplainedPair, explained_pairs
from sparserm_cli.analysis.report.content.side_by_side import SideBySide, side_by_side
from sparserm_cli.analysis.report.content.stored_scores import (
    most_right,
    most_wrong,
    pair_scores,
    stored_scores,
)
from sparserm_cli.analysis.report.content.texts import Words
from sparserm_cli.analysis.report.page import write_page
from sparserm_cli.analysis.report.run_facts import Missing, RunFacts, open_run
from sparserm_cli.analysis.report.sections import Findings, FiringOf, Scored, page_of
from sparserm_cli.config import Note, Phases, ReportConfig
from sparserm_cli.errors import UsageError
from sparserm_cli.models.head.reward_head import RewardHead
from sparserm_cli.statistics.calibration import length_bias, length_bias_from, reliability, reliability_from

REPORT = "report.html"
SHOWN_PAIRS, EXPLAINED_PAIRS = 20, 5
"""Most wrong pairs that are shown, and pairs at either end whose scores are divided into parts."""
Numbers = Int64[np.ndarray, " shown"]


class ReportSummary(NamedTuple):
    """What `report` has made.

    Fields:
        path: where the page is.
        bytes: its size.
        pairs: stored pairs that were scored.
        missing: part of the page to the reason why it is not shown.
        seconds: spent.
    """

    path: PurePath
    bytes: int
    pairs: int
    missing: Mapping[str, str]
    seconds: float


def report(config: ReportConfig, *, progress: Phases, note: Note) -> ReportSummary:
    """Show a run on one page; what is not there is named on the page and in the summary.

    Args:
        config: the options.
        progress: called with what is read, units done and units in all.
        note: told what is worth knowing on the way.

    Raises:
        IncompatibleError: the run directory holds no artifact at all.
        UsageError: --evaluation names no file.
        CorruptStoreError: an artifact is damaged.
        ResourceError: the disk is full.

    """
    begun = time.monotonic()
    # 1. What is there.
    run = open_run(config)
    # 2. One pass over the pooled vectors, one over the features of each layer.
    scored = _scored(run, progress)
    firing = _firing(run, progress)
    # 3. The texts of what is shown, each unit that holds any of them read once.
    wrong = right = np.empty(0, np.int64)
    if not isinstance(run.capture, Missing) and not isinstance(scored, Missing):
        wrong = most_wrong(run.capture, scored.pairs, SHOWN_PAIRS)
        right = most_right(run.capture, scored.pairs, EXPLAINED_PAIRS)
    words = _words(run, scored, firing, np.concatenate([wrong, right]))
    shown = {"Most wrong": wrong[:EXPLAINED_PAIRS], "Most right": right}
    explained = _explained(run, scored, words, shown)
    # 4. The page appears whole or not at all.
    page = page_of(
        str(config.run), run, Findings(scored, firing, wrong, words, explained, _beside(config, run))
    )
    missing = page.missing()
    for reason in dict.fromkeys(missing.values()):
        parts = ", ".join(part for part, why in missing.items() if why == reason)
        note(f"not shown ({parts}): {reason}")
    path = config.output or config.run / REPORT
    size = write_page(path, page)
    pairs = 0 if isinstance(scored, Missing) else len(scored.pairs.row)
    return ReportSummary(path, size, pairs, missing, time.monotonic() - begun)


def _scored(run: RunFacts, progress: Phases) -> Scored | Missing:
    """Score the stored pairs."""
    if isinstance(run.scored, Missing):
        return run.scored
    if isinstance(run.capture, Missing):
        return run.capture
    head = RewardHead.from_files(run.scored)
    stored = stored_scores(run.capture, head, partial(progress, "scores"))
    pairs = pair_scores(run.capture, stored.scores)
    calibration = {"fitted": reliability(pairs.margin, pairs.group)}
    length = {"fitted": length_bias(pairs.margin, pairs.length, pairs.group)}
    if not isinstance(run.evaluation, Missing):
        calibration = {"held-out": reliability_from(run.evaluation["reliability"]), **calibration}
        length = {"held-out": length_bias_from(run.evaluation["length_bias"]), **length}
    return Scored(stored, pairs, calibration, length)


def _firing(run: RunFacts, progress: Phases) -> FiringOf | Missing:
    """Find where the latents of the shown directions fire."""
    if isinstance(run.directions, Missing):
        return run.directions
    if isinstance(run.features, Missing):
        return run.features
    if isinstance(run.capture, Missing):
        return run.capture
    firing: dict[tuple[int, int], Firing] = {}
    for layer, selected in run.directions.layers.items():
        numbers = [number for at, number in shown_directions(run.directions) if at == layer]
        wanted = sorted({int(selected.feature[number]) for number in numbers} - {-1})
        if layer in run.features.plan.layers and wanted:
            advance = partial(progress, f"contexts of layer {layer}")
            places = firing_of(run.features, run.capture, layer, wanted, advance)
            firing |= {(layer, feature): place for feature, place in zip(wanted, places, strict=True)}
    return firing


def _explained(
    run: RunFacts, scored: Scored | Missing, words: Words | Missing, shown: Mapping[str, Numbers]
) -> Mapping[str, Sequence[ExplainedPair]] | Missing:
    """Divide the scores of the most wrong and the most right pairs among tokens and directions."""
    if isinstance(scored, Missing):
        return scored
    if isinstance(words, Missing):
        return words
    if isinstance(run.capture, Missing) or isinstance(run.scored, Missing):
        return Missing("no reward model of this capture")
    capture, head = run.capture, RewardHead.from_files(run.scored)
    try:
        return {
            title: explained_pairs(capture, head, scored.pairs, numbers, words)
            for title, numbers in shown.items()
        }
    except UsageError as error:  # the capture keeps pooled vectors only
        return Missing(str(error))


def _beside(config: ReportConfig, run: RunFacts) -> SideBySide | None:
    """Open the other run and lay both side by side."""
    if config.against is None:
        return None
    own: dict[str, Any] = {"reward": None, "evaluation": None, "comparison": None, "against": None}
    other = open_run(replace(config, run=config.against, **own))
    return side_by_side((str(config.run), str(config.against)), run, other)


def _words(
    run: RunFacts,
    scored: Scored | Missing,
    firing: FiringOf | Missing,
    shown: Numbers,
) -> Words | Missing:
    """Read the token ids of every response that is shown."""
    if isinstance(run.capture, Missing):
        return run.capture
    if isinstance(run.tokenizer, Missing):
        return run.tokenizer
    needed: set[int] = set()
    if not isinstance(firing, Missing):
        for places in firing.values():
            sampled = over_quantiles(halves(places.firing), SAMPLED)
            needed |= {context.response for context in (*places.strongest, *sampled)}
    if not isinstance(scored, Missing):
        needed |= {*scored.pairs.chosen[shown].tolist(), *scored.pairs.rejected[shown].tolist()}
        needed |= _ends(run, scored)
    return Words(run.capture, run.tokenizer, needed)


def _ends(run: RunFacts, scored: Scored) -> set[int]:
    """Return the responses at the ends of the shown directions."""
    reward, directions = run.made_of_directions, run.directions
    if reward is None or isinstance(directions, Missing):
        return set()
    at = [projection_of(reward, layer, number) for layer, number in shown_directions(directions)]
    ends = np.concatenate([scored.stored.highest[:, at], scored.stored.lowest[:, at]])
    return set(ends[ends >= 0].tolist())
