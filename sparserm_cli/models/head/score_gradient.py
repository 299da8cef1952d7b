"""The rate at which a score rises as one vector is added to the residual stream at every response token.

Axes: `d_in` width of the residual stream, `p` projections.
"""

import numpy as np
from jaxtyping import Float64

from sparserm_cli.models.head.attribution import columns
from sparserm_cli.models.head.heads import kind_of
from sparserm_cli.models.head.reward_head import RewardHead


def score_gradient(head: RewardHead) -> dict[int, Float64[np.ndarray, " d_in"]]:
    """Return layer to the gradient of the score by a vector that is added to all tokens of that layer.

    Such a vector moves the mean over tokens and the last token alike. So the gradient is the sum of the
    directions, each times its weight by the standard deviation of its projection: the preferred directions
    less the dispreferred ones, weighted by the head.

    Raises:
        ValueError: the gradient of this kind of head differs from response to response.

    """
    kind = kind_of(head.arrays.weights)
    if not kind.exact:
        raise ValueError("the gradient of this head differs from response to response")
    slopes = head.arrays.weights[kind.output].astype(np.float64) / head.arrays.std
    layers = np.array([layer for layer, _, _ in columns(head)])
    gradient = {}
    for layer in head.layers:
        by_pooling = slopes[layers == layer].reshape(len(head.poolings), -1).sum(axis=0)
        directions = head.arrays.directions.get(layer)
        gradient[layer] = by_pooling if directions is None else by_pooling @ directions
    return gradient
