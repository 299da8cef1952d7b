"""Project response vectors on directions, and the layout of the result."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float32, Int64

from sparserm_cli.store.artifacts.reward_checks import POOLINGS
from sparserm_cli.store.capture.reader import ActivationsReader

DENSE_PAIRS = 20_000
"""Most pairs that the dense control is fitted on, and that `select --by forward` looks at."""


Rows = Mapping[int, Float32[np.ndarray, "directions d_in"]]


def projections(
    capture: ActivationsReader,
    layers: tuple[int, ...],
    pool: str,
    directions: Rows | None,
    rows: Int64[np.ndarray, " n"],
) -> Float32[np.ndarray, "n p"]:
    """Return the projections of some responses, layer by layer, for each pooling; one pass over the capture.

    Args:
        capture: with these layers.
        layers: in order.
        pool: mean, last or both.
        directions: layer to directions; None keeps the pooled vectors themselves.
        rows: the responses, rising.

    """
    parts = []
    for layer in layers:
        for pooling in POOLINGS[pool]:
            columns = []
            for start, block in capture.iter_pooled(layer, pooling):
                first, last = np.searchsorted(rows, [start, start + len(block)])
                vectors = block[rows[first:last] - start]
                columns.append(vectors if directions is None else vectors @ directions[layer].T)
            parts.append(np.concatenate(columns))
    return np.concatenate(parts, axis=1)
