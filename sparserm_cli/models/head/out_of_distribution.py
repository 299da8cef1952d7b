"""The distance of a response from the training data: the Mahalanobis distance of its projections.

The distance is that of Lee et al. 2018 (arXiv 1807.03888) with a single class, by the shrunk covariance of
Ledoit and Wolf 2004. A covariance knows the responses it was made of, which makes these look nearer than new
ones; so the distances that new ones are compared with come from folds of prompts, each by the others.

Axes: `n` responses, `p` standardised projections.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float32, Float64, UInt64

from sparserm_cli.data.splits import grouped_folds
from sparserm_cli.store.artifacts.reward_checks import BORDER

_QUANTILES = ("0.5", "0.9", BORDER, "0.999")
_FOLDS = 5
_MOST = 20_000  # responses that covariance and quantiles are made of


def whitening_of(x: Float32[np.ndarray, "n p"]) -> Float32[np.ndarray, "p p"]:
    """Return W such that the columns of `x @ W` are uncorrelated and of unit variance, up to shrinkage.

    Args:
        x: standardised projections of training responses.

    """
    from sklearn.covariance import ledoit_wolf

    covariance, _ = ledoit_wolf(x.astype(np.float64))
    variances, components = np.linalg.eigh(covariance)
    floor = np.finfo(np.float32).eps * variances.max()
    return (components / np.sqrt(np.maximum(variances, floor))).astype(np.float32)


def distances(
    x: Float32[np.ndarray, "n p"], whitening: Float32[np.ndarray, "p p"] | None
) -> Float64[np.ndarray, " n"]:
    """Return the root mean square of each row of `x @ whitening`; of `x` itself without one."""
    white = x if whitening is None else x @ whitening
    return np.sqrt(np.square(white).mean(axis=1, dtype=np.float64))


def training_distances(
    x: Float32[np.ndarray, "n p"], groups: UInt64[np.ndarray, " n"], seed: int
) -> tuple[Float32[np.ndarray, "p p"], Mapping[str, float]]:
    """Return the whitening of the training responses, and quantiles of distances as new responses have them.

    Args:
        x: standardised projections of training responses; 20,000 of them drawn at random count.
        groups: the prompt of each.
        seed: seed of the draw and of the folds.

    """
    if len(x) > _MOST:
        drawn = np.sort(np.random.default_rng(seed).choice(len(x), _MOST, replace=False))
        x, groups = x[drawn], groups[drawn]
    whitening = whitening_of(x)
    held_out = distances(x, whitening)
    folds = min(_FOLDS, len(np.unique(groups)))
    if folds > 1:
        fold = grouped_folds(groups, folds, seed)
        for number in range(folds):
            held_out[fold == number] = distances(x[fold == number], whitening_of(x[fold != number]))
    return whitening, {share: float(np.quantile(held_out, float(share))) for share in _QUANTILES}
