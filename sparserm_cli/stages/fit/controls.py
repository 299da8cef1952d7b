"""Controls that a reward model is compared with, fitted on the same pairs.

Without them the accuracy of the reward model says little.

Axes: `n` responses of the pairs, `m` pairs, `d_in` width of the residual stream.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Int64

from sparserm_cli.config import HeadSetting, Progress
from sparserm_cli.models.head.baselines import BASELINES, LabelledVectors, difference_of_means
from sparserm_cli.models.head.projections import DENSE_PAIRS, Rows, projections
from sparserm_cli.stages.fit.split import Split
from sparserm_cli.stages.fit.style import Style, blind_to_style, without_style
from sparserm_cli.store.artifacts.head_arrays import HeadArrays
from sparserm_cli.store.capture.reader import ActivationsReader

DENSE, MEANS = "dense", "difference of means"


LENGTH = "length only"
FITTED = (*(name for name, baseline in BASELINES.items() if baseline.in_fit), DENSE, MEANS)
"""Names of the controls that are fitted."""


_DENSE_SETTING = HeadSetting("mean", "linear", "bt")


class FittedHead(NamedTuple):
    """A fitted head: the one that is stored, and the one that the validation pairs can judge."""

    final: HeadArrays
    """Head fitted on all pairs."""
    validated: HeadArrays
    """Head fitted on the training pairs only."""
    facts: Mapping[str, Any]
    """What was chosen on the validation pairs."""


def fit_projections(
    split: Split,
    taken: Float32[np.ndarray, "n p"],
    setting: HeadSetting,
    seed: int,
    directions: Rows,
    progress: Progress | None = None,
) -> FittedHead:
    """Standardise projections with the statistics of the training responses and fit a head on them.

    Args:
        split: the pairs.
        taken: projections of the responses of the pairs.
        setting: head and loss; the projections are those of its pooling.
        seed: seed of all randomness.
        directions: directions that the vectors were projected on; empty for the pooled vectors themselves.
        progress: called with steps done and steps in all.

    """
    from sparserm_cli.models.head.heads import fit_head
    from sparserm_cli.models.head.pair_data import PairData, standardisation

    mean, std = standardisation(taken, np.unique(split.pairs[~split.validation]))
    x = (taken - mean) / std
    # All layers have the same number of directions; each layer and pooling is a view of its own.
    views = x.shape[1] // len(next(iter(directions.values()))) if directions else 1
    data = PairData(x, split.pairs, split.validation, split.weight, views, split.groups)
    fitted = fit_head(data, setting.head, setting.loss, plain=setting.plain, seed=seed, progress=progress)
    arrays = [HeadArrays(mean, std, tensors, directions) for tensors in (fitted.weights, fitted.validated)]
    return FittedHead(arrays[0], arrays[1], fitted.facts)


def fit_controls(
    capture: ActivationsReader,
    split: Split,
    directions: Rows,
    setting: HeadSetting,
    seed: int,
    style: Style | None = None,
) -> dict[str, FittedHead]:
    """Fit every control.

    Every control weighs the pairs as the reward model does. Baselines of directions have the same number of
    directions, pooling, head, loss and seed. `dense` is a
    linear Bradley-Terry head on the mean vectors, fitted on a sample of more than DENSE_PAIRS pairs.
    `difference of means` projects on the mean chosen minus the mean rejected vector and has nothing to fit.

    Args:
        capture: the activations.
        split: the pairs.
        directions: directions of the reward model; each baseline takes the same number.
        setting: head, loss and pooling of the reward model.
        seed: seed of the reward model.
        style: what is taken out of the reward model's directions, and so of every control.

    """
    layers = tuple(directions)
    few = split.subsample(DENSE_PAIRS, seed)
    training = few.pairs[~few.validation]
    whole = projections(capture, layers, _DENSE_SETTING.pool, None, few.rows)
    of_layer = without_style(dict(zip(layers, np.split(whole, len(layers), axis=1), strict=True)), style)
    vectors = np.concatenate(list(of_layer.values()), axis=1)
    fitted = {}
    for name, baseline in BASELINES.items():
        if baseline.in_fit:
            given = {layer: LabelledVectors(of_layer[layer], training) for layer in layers}
            drawn = baseline.of_layers(given, {layer: len(directions[layer]) for layer in layers}, seed)
            drawn = without_style(drawn, style)
            taken = projections(capture, layers, setting.pool, drawn, split.rows)
            fitted[name] = fit_projections(split, taken, setting, seed, drawn)
    means = _difference_of_means(vectors, training, few.weight[~few.validation])
    on_vectors = {
        DENSE: fit_projections(few, vectors, _DENSE_SETTING, seed, {}),
        MEANS: FittedHead(means, means, {}),
    }
    for name, head in on_vectors.items():
        final, validated = (blind_to_style(arrays, style, layers) for arrays in (head.final, head.validated))
        fitted[name] = FittedHead(final, validated, head.facts)
    return fitted


def _difference_of_means(
    vectors: Float32[np.ndarray, "n p"],
    training: Int64[np.ndarray, "train 2"],
    counts: Float32[np.ndarray, " train"],
) -> HeadArrays:
    """Return the head that projects on the mean chosen minus the mean rejected vector."""
    weight = difference_of_means(vectors, training, counts)
    bias = np.array([-float(vectors[np.unique(training)].mean(axis=0) @ weight)], np.float32)
    return HeadArrays(np.zeros_like(weight), np.ones_like(weight), {"weight": weight, "bias": bias})
