"""The rounding error of a response's vectors from a trie and from plain rows, relative to float32.

Axes: n (responses), d_in (width of the residual stream), vectors (one per response and layer).
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from sparserm_cli.models.lm.pooling import Pooled

ROWS, TRIE = "each response alone, as transformers", "prompt computed once for all its responses"


class Rounding(NamedTuple):
    """The error of one way to compute the vectors from which scores are made.

    Fields:
        way: `ROWS` or `TRIE`.
        dtype: the number type in which the model computes.
        pooling: the pooling of a response's tokens: their `mean`, or the `last` one.
        median: median relative Euclidean error of the vectors against plain rows in float32;
            infinite where a vector is not finite.
        high: 95th percentile of the same error.
        times_rows: median and high as multiples of those of plain rows in the same type; None for those rows,
            and where rows have no error.
    """

    way: str
    dtype: str
    pooling: str
    median: float
    high: float
    times_rows: tuple[float, float] | None


def rounding_table(exact: Pooled, computed: Mapping[tuple[str, str], Pooled]) -> tuple[Rounding, ...]:
    """Compare vectors with those of plain rows in float32.

    Args:
        exact: vectors of plain rows in float32.
        computed: the vectors per number type and way; the plain rows of a type come before its trie.

    """
    table: list[Rounding] = []
    rows: dict[tuple[str, str], tuple[float, float]] = {}
    for (dtype, way), pooled in computed.items():
        for pooling in next(iter(exact.values())):
            errors = _errors(exact, pooled, pooling)
            finite = bool(np.isfinite(errors).all())
            median, high = np.quantile(errors, [0.5, 0.95]).tolist() if finite else (np.inf, np.inf)
            plain = rows.get((dtype, pooling))
            if way == ROWS:
                rows[dtype, pooling] = median, high
            times = (median / plain[0], high / plain[1]) if plain and min(plain) > 0 else None
            table.append(Rounding(way, dtype, pooling, median, high, times))
    return tuple(table)


def _errors(exact: Pooled, computed: Pooled, pooling: str) -> Float64[np.ndarray, " vectors"]:
    """Return the relative error of each response's vector at each layer."""
    pairs = [
        (computed[layer][pooling].astype(np.float64), vectors[pooling].astype(np.float64))
        for layer, vectors in exact.items()
    ]
    each = [np.linalg.norm(a - b, axis=1) / np.linalg.norm(b, axis=1) for a, b in pairs]
    return np.concatenate(each)
