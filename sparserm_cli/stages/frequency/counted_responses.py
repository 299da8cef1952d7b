"""The responses that are counted: their sides, random groups of prompts, classes of length, and pairs.

Axes: `n` consecutive responses, `m` pairs, `folds` random groups of prompts, `strata` classes of response
length, `side` 0 chosen and 1 rejected.

A response counts once on each side it belongs to, however many pairs contain it.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64, Integer, UInt8

FOLDS = 10
"""Number of random groups of prompts; the bootstrap over prompts resamples them."""
STRATA = 4
"""Number of classes of response length, separated at the quartiles of the counted responses."""

_WEIGHT_STEP = 2.0**-30  # pair weights are multiples of this, so sums of them are exact in any order


class CountedResponses(NamedTuple):
    """Consecutive responses with the class of each, and the counted pairs that contain them."""

    start: int
    """Number of the first response."""
    lengths: Integer[np.ndarray, " n"]
    """Number of tokens of each response."""
    chosen: Bool[np.ndarray, " n"]
    """The response wins a counted pair."""
    rejected: Bool[np.ndarray, " n"]
    """The response loses a counted pair; it may win another."""
    fold: UInt8[np.ndarray, " n"]
    """Random group of the response's prompt, 0 to FOLDS - 1."""
    stratum: UInt8[np.ndarray, " n"]
    """Class of the response's length, 0 to STRATA - 1."""
    pairs: Int64[np.ndarray, "m 2"]
    """Counted pairs with at least one response here: number of the chosen and of the rejected response."""
    pair_weight: Float64[np.ndarray, " m"]
    """One over the number of pairs of the prompt, so that every prompt weighs 1."""

    @property
    def own_pairs(self) -> Bool[np.ndarray, " m"]:
        """Mask of the pairs whose chosen response is here; summed over all units, each pair counts once."""
        chosen = self.pairs[:, 0]
        return (chosen >= self.start) & (chosen < self.start + len(self.lengths))


def class_responses(
    lengths: Integer[np.ndarray, " n"],
    groups: Integer[np.ndarray, " n"],
    folds: Integer[np.ndarray, " n"],
    pairs: Integer[np.ndarray, "m 2"],
) -> CountedResponses:
    """Classify all responses at once.

    Args:
        lengths: number of tokens of each response.
        groups: prompt group of each response.
        folds: random group of the prompt of each response, 0 to FOLDS - 1.
        pairs: chosen and rejected response of each pair to count; responses in no pair are left out.

    """
    _, prompt, per_prompt = np.unique(groups[pairs[:, 0]], return_inverse=True, return_counts=True)
    cuts = length_cuts(np.bincount(lengths[np.unique(pairs)]))
    return classed(0, lengths, folds, cuts, pairs, per_prompt[prompt])


def classed(
    start: int,
    lengths: Integer[np.ndarray, " n"],
    folds: Integer[np.ndarray, " n"],
    cuts: Float64[np.ndarray, " cuts"],
    pairs: Integer[np.ndarray, "m 2"],
    per_prompt: Integer[np.ndarray, " m"],
) -> CountedResponses:
    """Classify some consecutive responses.

    Args:
        start: number of the first response.
        lengths: number of tokens of each response.
        folds: random group of the prompt of each response, 0 to FOLDS - 1.
        cuts: boundaries of the classes of length, as `length_cuts` returns them.
        pairs: all counted pairs with at least one response among these.
        per_prompt: number of counted pairs of the prompt of each pair.

    """
    sides = np.zeros((2, len(lengths)), bool)
    for side, place in enumerate(pairs.T - start):
        sides[side, place[(place >= 0) & (place < len(lengths))]] = True
    return CountedResponses(
        start=start,
        lengths=lengths,
        chosen=sides[0],
        rejected=sides[1],
        fold=folds.astype(np.uint8),
        stratum=np.searchsorted(cuts, lengths, side="left").astype(np.uint8),
        pairs=pairs.astype(np.int64, copy=False),
        pair_weight=np.maximum(np.round(1.0 / per_prompt / _WEIGHT_STEP), 1.0) * _WEIGHT_STEP,
    )


def length_cuts(counts: Integer[np.ndarray, " lengths"]) -> Float64[np.ndarray, " cuts"]:
    """Return the quantiles that separate STRATA classes, given how many responses have each length.

    They equal those of `numpy.quantile`, which interpolates linearly between the two nearest responses.
    """
    ends = np.cumsum(counts)
    if not len(ends) or not ends[-1]:
        return np.zeros(STRATA - 1)
    place = (ends[-1] - 1) * np.arange(1, STRATA) / STRATA
    low, high = (np.searchsorted(ends, rank, side="right") for rank in (np.floor(place), np.ceil(place)))
    return low + (high - low) * (place % 1)


def class_totals(
    counted: CountedResponses,
) -> tuple[Int64[np.ndarray, "folds strata 2"], Int64[np.ndarray, "folds strata 2"]]:
    """Return the number of tokens and of responses in every class, whether a latent fires or not."""
    tokens = np.zeros((FOLDS, STRATA, 2), np.int64)
    responses = np.zeros((FOLDS, STRATA, 2), np.int64)
    for side, mask in enumerate((counted.chosen, counted.rejected)):
        where = (counted.fold[mask], counted.stratum[mask], side)
        np.add.at(tokens, where, counted.lengths[mask])
        np.add.at(responses, where, 1)
    return tokens, responses
