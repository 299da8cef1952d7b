"""Rankings that choose one latent after the other, each for what it adds to those chosen before it."""

import numpy as np
from jaxtyping import Int64

from sparserm_cli.stages.select import orthogonal
from sparserm_cli.stages.select.rankings.base import Candidates, Chosen, require, sides

GREEDY_POOL = 8
"""`greedy` considers this many times `top_k` latents per side: those with the largest difference."""
FORWARD_POOL = 2048
"""`forward` considers this many latents per side, or `top_k` if that is more.

It takes those with the largest difference. With 512 of about 2,300 per side it lost one percentage point of
accuracy on TruthfulQA.
"""


def greedy(candidates: Candidates) -> Chosen:
    """Choose by the difference that is left after the directions chosen before are projected out."""
    pool = _pool(candidates, GREEDY_POOL * candidates.top_k)
    difference = candidates.measures.difference[pool]
    place = orthogonal.greedy(candidates.rows(pool), difference, candidates.top_k).place
    return Chosen(pool[place], sides(candidates.top_k), difference[place])


def forward(candidates: Candidates) -> Chosen:
    """Choose by what the projection of a latent adds to a linear head on the pairs."""
    pool = _pool(candidates, max(FORWARD_POOL, candidates.top_k))
    difference, top_k = candidates.measures.difference[pool], candidates.top_k
    place, gain = orthogonal.orthogonal_least_squares(
        candidates.rows(pool), difference, top_k, candidates.of_pairs()
    )
    return Chosen(pool[place], sides(top_k), gain * sides(top_k))


def _pool(candidates: Candidates, most: int) -> Int64[np.ndarray, " pool"]:
    """Return the latents with the largest difference on each side, at most `most` per side.

    Raises:
        UsageError: fewer than `top_k` latents speak for one of the sides.

    """
    pools, difference = [], candidates.measures.difference
    for sign in (1, -1):
        able = np.flatnonzero(difference * sign > 0)
        require(len(able), candidates, sign)
        pools.append(able[np.lexsort((able, -np.abs(difference[able])))[:most]])
    return np.concatenate(pools)
