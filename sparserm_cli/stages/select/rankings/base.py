"""The input and the result of a ranking, and the choice of the largest statistics of each side.

Axes: `d_sae` latents, `directions` chosen ones (`top_k` preferred, then `top_k` dispreferred), `d_in` width
of the residual stream. Every choice is repeatable: ties go to the larger difference, then to the lower index.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int8, Int64

from sparserm_cli.errors import UsageError
from sparserm_cli.statistics.pair_moments import Moments
from sparserm_cli.statistics.rates import Latents
from sparserm_cli.store.artifacts.frequency import LatentStatistics

Rows = Callable[[Int64[np.ndarray, " latents"]], Float32[np.ndarray, "latents d_in"]]


class Chosen(NamedTuple):
    """The chosen latents of one layer: the preferred ones first, each side by descending strength."""

    feature: Int64[np.ndarray, " directions"]
    """Latent, or -1 for a random direction."""
    side: Int8[np.ndarray, " directions"]
    """1 preferred, -1 dispreferred."""
    statistic: Float64[np.ndarray, " directions"]
    """The statistic of the ranking, positive for preferred; NaN for the controls."""


@dataclass(frozen=True)
class Candidates:
    """The latents of one layer, and everything that a ranking may know about them."""

    measures: LatentStatistics
    """Statistics of each latent, as `frequency` stores them."""
    fold_total: Int64[np.ndarray, "folds 2"]
    """Number of tokens (or responses) in each random group of prompts."""
    top_k: int
    """Number of latents per side."""
    rows: Rows
    """Returns the decoder rows of some latents."""
    of_pairs: Callable[[], Moments]
    """Returns the moments of the pairs that the selection is made on."""
    seed: int
    """Seed of all randomness."""
    where: str
    """The layer, as error messages name it."""


Ranking = Callable[[Candidates], Chosen]
"""Chooses `top_k` latents per side, or raises UsageError where there are fewer."""


def top(candidates: Candidates, statistic: Latents, side: Latents) -> Chosen:
    """Choose the largest statistics of each side.

    Args:
        candidates: the latents.
        statistic: one number per latent; its absolute value ranks.
        side: side that each latent speaks for: 1 preferred, -1 dispreferred, 0 neither.

    Raises:
        UsageError: fewer than `top_k` latents speak for one of the sides.

    """
    difference, chosen = candidates.measures.difference, []
    for sign in (1, -1):
        able = np.flatnonzero(side == sign)
        require(len(able), candidates, sign)
        order = np.lexsort((-np.abs(difference[able]), -np.abs(statistic[able])))
        chosen.append(able[order[: candidates.top_k]])
    feature = np.concatenate(chosen)
    return Chosen(feature, sides(candidates.top_k), statistic[feature])


def require(able: int, candidates: Candidates, sign: int) -> None:
    """Raise UsageError unless `top_k` latents favour a side."""
    if able < candidates.top_k:
        speaks = "chosen" if sign == 1 else "rejected"
        found = f"{able} that speak for {speaks} in {candidates.where}"
        expected = f"{candidates.top_k} latents per side"
        raise UsageError("--top-k", expected, found, "lower --top-k or use more data")


def sides(top_k: int) -> Int8[np.ndarray, " directions"]:
    """Return the side of each chosen latent, the preferred ones first."""
    return np.repeat(np.array([1, -1], np.int8), top_k)
