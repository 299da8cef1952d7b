"""Choosing latents one after the other, each for what it adds to those before it. Pure functions.

Axes: `pool` candidate latents, `directions` chosen ones (`top_k` preferred, then `top_k` dispreferred),
`d_in` width of the residual stream. Both sides share the chosen directions and are filled together; what is
left of each candidate is kept up to date by a Cholesky decomposition with pivoting (Golub and Van Loan,
4.2.8).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int64

from sparserm_cli.statistics.pair_moments import Moments

RIDGE = 0.1
"""Share of the mean variance that `orthogonal_least_squares` adds to every direction, so that a rare one is not overrated."""

Gain = Callable[[Float64[np.ndarray, " pool"], Float64[np.ndarray, " pool"]], Float64[np.ndarray, " pool"]]
"""What each candidate would add, from what is left of its signal and of its square."""


class Picks(NamedTuple):
    """What was chosen, the preferred candidates first, each side in the order of its choice."""

    place: Int64[np.ndarray, " directions"]
    """Place in the pool."""
    gain: Float64[np.ndarray, " directions"]
    """What it added when it was chosen."""


def greedy(
    rows: Float32[np.ndarray, "pool d_in"], difference: Float64[np.ndarray, " pool"], top_k: int
) -> Picks:
    """Choose by the difference of frequencies times what is new in the direction.

    What is new is the norm of the unit decoder row after projecting out the chosen rows, so no row is chosen
    for what another one already says.

    Args:
        rows: decoder rows of the pool.
        difference: of each candidate; its sign is the side.
        top_k: candidates a side.

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
    (Chen, Billings and Luo 1989): what a candidate adds is the mean of what is left of its differences over
    their root mean square. Which side a latent speaks for is still the sign of its difference of frequencies.

    Args:
        rows: decoder rows of the pool.
        difference: of each candidate's frequencies; its sign is the side. None if they have no sides, as
            directions that are not latents.
        top_k: candidates a side, or half of those chosen.
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
    """Return the rows with norm 1."""
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
    """Take the candidate of the largest gain until all sides are full, projecting each out of the others.

    Args:
        unit: the candidates.
        products: the same times the metric: `products @ unit.T` are their inner products.
        left: what each candidate explains on its own.
        side: 1 preferred, -1 dispreferred; 0 neither, of which there may be twice as many.
        top_k: candidates a side.
        gain: what each would add.

    """
    whole = np.einsum("ij,ij->i", products, unit)
    rest = whole.copy()
    factor = np.zeros((len(unit), 2 * top_k))
    free = np.ones(len(unit), bool)
    picks: dict[int, list[tuple[int, float]]] = {1: [], -1: [], 0: []}
    for step in range(2 * top_k):
        found = np.where(free, gain(left, rest), -1.0)
        pick = int(np.argmax(found))
        taken = picks[int(side[pick])]
        taken.append((pick, float(found[pick])))
        free[pick] = False
        if side[pick] and len(taken) == top_k:
            free &= side != side[pick]
        if rest[pick] > 0:
            column = (products @ unit[pick] - factor[:, :step] @ factor[pick, :step]) / np.sqrt(rest[pick])
            left = left - column * (left[pick] / np.sqrt(rest[pick]))
            factor[:, step] = column
            rest = rest - column**2
            rest[rest < 1e-12 * whole] = 0.0  # nothing but rounding is left
    place, added = zip(*(one for taken in picks.values() for one in taken), strict=True)
    return Picks(np.array(place), np.array(added))
