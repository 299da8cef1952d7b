"""Choose latents one after the other, each for what it adds to those chosen before it. Pure functions.

Axes: `pool` candidate latents, `directions` chosen ones (`top_k` preferred, then `top_k` dispreferred),
`d_in` width of the residual stream. Both sides share the chosen directions and are filled together. The
remainder of each candidate, after the chosen ones are projected out, is updated by a Cholesky decomposition
with pivoting (Golub and Van Loan, 4.2.8).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int64

from sparserm_cli.statistics.pair_moments import Moments

RIDGE = 0.1
"""Share of the mean variance that `orthogonal_least_squares` adds to every direction.

Without it a direction that rarely varies would be overrated.
"""

Gain = Callable[[Float64[np.ndarray, " pool"], Float64[np.ndarray, " pool"]], Float64[np.ndarray, " pool"]]
"""Computes what each candidate would add, from the remainders of its signal and of its squared norm."""


class Picks(NamedTuple):
    """The chosen candidates: the preferred ones first, each side in the order of its choice."""

    place: Int64[np.ndarray, " directions"]
    """Index of the candidate in the pool."""
    gain: Float64[np.ndarray, " directions"]
    """Gain of the candidate when it was chosen."""


def greedy(
    rows: Float32[np.ndarray, "pool d_in"], difference: Float64[np.ndarray, " pool"], top_k: int
) -> Picks:
    """Choose by the difference of frequencies times what is new in the direction.

    What is new is the norm of the unit decoder row after the chosen rows are projected out, so that no row
    is chosen for a direction that is covered already.

    Args:
        rows: decoder rows of the pool.
        difference: difference of firing rates of each candidate; its sign is the side.
        top_k: number of candidates per side.

    """
    unit = _unit(rows)
    weight = np.abs(difference)
    nothing = np.zeros(len(unit))
    return _fill_sides(
        unit, unit, nothing, np.sign(difference), top_k, lambda _, rest: weight * np.sqrt(rest)
    )


def orthogonal_least_squares(
    rows: Float32[np.ndarray, "pool d_in"],
    difference: Float64[np.ndarray, " pool"] | None,
    top_k: int,
    of_pairs: Moments,
) -> Picks:
    """Choose by what the projection adds to a linear head on the projections chosen so far.

    This is forward regression of 1 on the pairs' differences of projections, by orthogonal least squares
    (Chen, Billings and Luo 1989). A candidate adds the mean of the remainder of its differences, divided by
    their root mean square. The sign of its difference of firing rates still decides the side of a latent.

    Args:
        rows: decoder rows of the pool.
        difference: difference of firing rates of each candidate; its sign is the side. None if the candidates
            have no sides because they are directions and not latents.
        top_k: number of candidates per side; without sides, half the number that is chosen.
        of_pairs: moments of the pairs that select.

    """
    unit = _unit(rows)
    variance = RIDGE * np.trace(of_pairs.second) / len(of_pairs.second)
    products = unit @ (of_pairs.second + variance * np.eye(len(of_pairs.second)))

    def gain(left: Float64[np.ndarray, " pool"], rest: Float64[np.ndarray, " pool"]) -> np.ndarray:
        return np.where(rest > 0, np.abs(left) / np.sqrt(np.where(rest > 0, rest, 1.0)), 0.0)

    side = np.zeros(len(unit)) if difference is None else np.sign(difference)
    return _fill_sides(unit, products, unit @ of_pairs.mean, side, top_k, gain)


def _unit(rows: Float32[np.ndarray, "pool d_in"]) -> Float64[np.ndarray, "pool d_in"]:
    """Return the rows, each divided by its norm."""
    wide = rows.astype(np.float64)
    return wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)


def _fill_sides(
    unit: Float64[np.ndarray, "pool d_in"],
    products: Float64[np.ndarray, "pool d_in"],
    left: Float64[np.ndarray, " pool"],
    side: Float64[np.ndarray, " pool"],
    top_k: int,
    gain: Gain,
) -> Picks:
    """Take the candidate with the largest gain until all sides are full, and project it out of the others.

    Args:
        unit: the candidates as rows of norm 1.
        products: the candidates times the metric, so that `products @ unit.T` are their inner products.
        left: what each candidate explains on its own.
        side: 1 preferred, -1 dispreferred; 0 neither, of which `2 * top_k` are chosen.
        top_k: number of candidates per side.
        gain: computes what each candidate would add.

    """
    whole = np.einsum("ij,ij->i", products, unit)
    rest = whole.copy()
    factor = np.zeros((len(unit), 2 * top_k))
    free = np.ones(len(unit), bool)
    picks: dict[int, list[tuple[int, float]]] = {1: [], -1: [], 0: []}
    for step in range(2 * top_k):
        # Choose the best candidate whose side is not full.
        gains = np.where(free, gain(left, rest), -1.0)
        pick = int(np.argmax(gains))
        taken = picks[int(side[pick])]
        taken.append((pick, float(gains[pick])))
        free[pick] = False
        if side[pick] and len(taken) == top_k:
            free &= side != side[pick]
        if rest[pick] > 0:
            # Project it out of the other candidates: one more column of the Cholesky factor.
            column = (products @ unit[pick] - factor[:, :step] @ factor[pick, :step]) / np.sqrt(rest[pick])
            left = left - column * (left[pick] / np.sqrt(rest[pick]))
            factor[:, step] = column
            rest = rest - column**2
            rest[rest < 1e-12 * whole] = 0.0  # only rounding errors are left
    place, added = zip(*(pick_and_gain for taken in picks.values() for pick_and_gain in taken), strict=True)
    return Picks(np.array(place), np.array(added))
