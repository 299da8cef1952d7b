"""Moments of chosen less rejected vectors, which every linear choice of directions by pairs needs.

Axes: `n` responses, `m` pairs, `d_in` width of the residual stream.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int64


class Moments(NamedTuple):
    """Chosen less rejected pooled vectors over the pairs that select."""

    mean: Float64[np.ndarray, " d_in"]
    """Mean of the differences."""
    second: Float64[np.ndarray, "d_in d_in"]
    """Second moments of the differences: the mean of their outer products."""


def moments(vectors: Float32[np.ndarray, "n d_in"], pairs: Int64[np.ndarray, "m 2"]) -> Moments:
    """Return the moments of the pairs' differences.

    Args:
        vectors: one pooled vector per response.
        pairs: chosen and rejected response of each pair.

    """
    difference = (vectors[pairs[:, 0]] - vectors[pairs[:, 1]]).astype(np.float64)
    return Moments(difference.mean(axis=0), difference.T @ difference / len(difference))
