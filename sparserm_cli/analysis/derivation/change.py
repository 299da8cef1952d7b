"""What a change of a reward model does to pairs: accuracy, length, spread of the scores, and pairs that flip.

Axes: `n` responses, `pairs` of a chosen and a rejected response.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Integer

from sparserm_cli.analysis.evaluate.rules import ScoredExample
from sparserm_cli.statistics.calibration import length_bias
from sparserm_cli.statistics.pair_accuracy import Difference, PairAccuracy, difference, pair_accuracy

BEFORE, AFTER = "before", "after"
"""Names of the two heads that are compared."""


class ScoredPairs(NamedTuple):
    """Pairs whose responses were scored by both heads.

    Fields:
        scores: name of a head to the score of each response.
        margins: name of a head to the chosen score less the rejected score of each pair.
        lengths: chosen tokens less rejected tokens of each pair.
        groups: key of the prompt of each pair.
        rows: row of the data, from 1, of each pair.
    """

    scores: Mapping[str, Float64[np.ndarray, " n"]]
    margins: Mapping[str, Float64[np.ndarray, " pairs"]]
    lengths: Integer[np.ndarray, " pairs"]
    groups: Integer[np.ndarray, " pairs"]
    rows: Integer[np.ndarray, " pairs"]


class Measured(NamedTuple):
    """One head on some pairs.

    Fields:
        accuracy: share of pairs whose chosen response scores strictly higher, with its interval.
        length_correlation: Spearman's, of length difference and margin; NaN if one of them is constant.
        mean: mean score of the responses.
        std: standard deviation of the scores.
    """

    accuracy: PairAccuracy
    length_correlation: float
    mean: float
    std: float


class Flip(NamedTuple):
    """A pair that one head puts right and the other wrong: its row, and its margin before and after."""

    row: int
    before: float
    after: float


class Change(NamedTuple):
    """Two heads on the same pairs.

    Fields:
        held_out: whether neither head was fitted on these pairs.
        before: the old head.
        after: the new head.
        difference: accuracy of the new head less that of the old one, with a paired interval over prompts.
        flipped: pairs that one of them puts right and the other wrong, in the order of the data.
    """

    held_out: bool
    before: Measured
    after: Measured
    difference: Difference
    flipped: tuple[Flip, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the change as a JSON object."""
        return {
            "held_out": self.held_out,
            BEFORE: _object(self.before),
            AFTER: _object(self.after),
            "difference": self.difference._asdict(),
            "flipped": [flip._asdict() for flip in self.flipped],
        }


def change_of(pairs: ScoredPairs, *, held_out: bool) -> Change:
    """Compare the two heads on pairs that both have scored."""
    before, after = pairs.margins[BEFORE], pairs.margins[AFTER]
    turned = np.flatnonzero((before > 0) != (after > 0))
    return Change(
        held_out,
        _measured(pairs, BEFORE),
        _measured(pairs, AFTER),
        difference(after, before, pairs.groups),
        tuple(Flip(int(pairs.rows[at]), float(before[at]), float(after[at])) for at in turned),
    )


def pairs_of_rows(rows: list[ScoredExample]) -> ScoredPairs:
    """Return the pairs of rows that were scored by heads named BEFORE and AFTER; at least one has a pair."""
    counts = [row.pairs for row in rows]
    return ScoredPairs(
        {name: np.concatenate([row.scores[name] for row in rows]) for name in (BEFORE, AFTER)},
        {name: np.concatenate([row.margins(name) for row in rows]) for name in (BEFORE, AFTER)},
        np.concatenate([row.lengths for row in rows]),
        np.repeat(np.array([row.group for row in rows], np.uint64), counts),
        np.repeat(np.array([row.example.row for row in rows], np.int64), counts),
    )


def _measured(pairs: ScoredPairs, name: str) -> Measured:
    """Return what one head does on the pairs."""
    margins, scores = pairs.margins[name], pairs.scores[name]
    return Measured(
        pair_accuracy(margins, pairs.groups),
        length_bias(margins, pairs.lengths, pairs.groups).correlation,
        float(scores.mean()),
        float(scores.std()),
    )


def _object(measured: Measured) -> dict[str, Any]:
    """Return what was measured of one head as a JSON object."""
    return {**measured._asdict(), "accuracy": measured.accuracy._asdict()}
