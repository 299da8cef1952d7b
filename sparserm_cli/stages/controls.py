"""What a reward model is compared with, fitted on the same pairs: without these its accuracy says little.

Axes: `n` responses of the pairs, `m` pairs, `d_in` width of the residual stream.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt64

from sparserm_cli.models.fitting import PairData, fit_linear, standardisation
from sparserm_cli.models.mlp import fit_head
from sparserm_cli.stages.selection import random_directions
from sparserm_cli.store.activations import ActivationsReader
from sparserm_cli.store.reward import POOLINGS, HeadArrays

DENSE_PAIRS = 20_000
"""Most pairs that the dense control is fitted on."""
RANDOM, DENSE, MEANS = "random directions", "dense", "difference of means"
LENGTH = "length only"

Rows = Mapping[int, Float32[np.ndarray, "directions d_in"]]


class Split(NamedTuple):
    """The pairs of a fit, and their responses."""

    rows: Int64[np.ndarray, " n"]
    """Responses of the pairs, as numbers of the capture."""
    pairs: Int64[np.ndarray, "m 2"]
    """Chosen and rejected response of each pair, as places in `rows`."""
    validation: Bool[np.ndarray, " m"]
    """Pairs of validation prompts."""
    groups: UInt64[np.ndarray, " m"]
    """Prompt of each pair."""

    def data(self, x: Float32[np.ndarray, "n p"]) -> PairData:
        """Return what a head is fitted on; every pair weighs the same."""
        return PairData(x, self.pairs, self.validation, np.ones(len(self.pairs), np.float32))

    def limited(self, most: int, seed: int) -> "Split":
        """Return a split of at most so many pairs, drawn at random; `rows` is cut to theirs."""
        if len(self.pairs) <= most:
            return self
        kept = np.sort(np.random.default_rng(seed).choice(len(self.pairs), most, replace=False))
        places, pairs = np.unique(self.pairs[kept], return_inverse=True)
        return Split(self.rows[places], pairs.reshape(-1, 2), self.validation[kept], self.groups[kept])


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
            found = []
            for start, block in capture.iter_pooled(layer, pooling):
                first, last = np.searchsorted(rows, [start, start + len(block)])
                vectors = block[rows[first:last] - start]
                found.append(vectors if directions is None else vectors @ directions[layer].T)
            parts.append(np.concatenate(found))
    return np.concatenate(parts, axis=1)


def fit_arrays(
    split: Split, taken: Float32[np.ndarray, "n p"], head: str, loss: str, seed: int, directions: Rows
) -> HeadArrays:
    """Standardise projections and fit a head on them."""
    mean, std = standardisation(taken, np.unique(split.pairs[~split.validation]))
    fitted = fit_head(split.data((taken - mean) / std), head, loss, seed=seed)
    return HeadArrays(mean, std, fitted.weights, directions)


def fit_controls(
    capture: ActivationsReader, split: Split, directions: Rows, pool: str, head: str, loss: str, seed: int
) -> dict[str, HeadArrays]:
    """Fit every control.

    `random directions` has as many directions, the same pooling, head, loss and seed; `dense` is a linear
    Bradley-Terry head on the mean vectors, on a sample of the pairs where there are many; `difference of
    means` projects on the mean chosen less the mean rejected vector and has nothing to fit.

    Args:
        capture: the activations.
        split: the pairs.
        directions: those of the reward model, of which the random ones take the shape.
        pool: of the reward model.
        head: of the reward model.
        loss: of the reward model.
        seed: of the reward model.

    """
    layers = tuple(directions)
    drawn = {
        layer: random_directions(*rows.shape, seed=seed + 1000 * (layer + 1))
        for layer, rows in directions.items()
    }
    taken = projections(capture, layers, pool, drawn, split.rows)
    controls = {RANDOM: fit_arrays(split, taken, head, loss, seed, drawn)}
    few = split.limited(DENSE_PAIRS, seed)
    vectors = projections(capture, layers, "mean", None, few.rows)
    mean, std = standardisation(vectors, np.unique(few.pairs[~few.validation]))
    dense = fit_linear(few.data((vectors - mean) / std), "bt")
    controls[DENSE] = HeadArrays(mean, std, dense.weights)
    training = few.pairs[~few.validation]
    weight = (vectors[training[:, 0]] - vectors[training[:, 1]]).mean(axis=0)
    bias = np.array([-float(mean @ weight)], np.float32)
    controls[MEANS] = HeadArrays(np.zeros_like(mean), np.ones_like(std), {"weight": weight, "bias": bias})
    return controls


def length_preference(lengths: Int64[np.ndarray, " n"], pairs: Int64[np.ndarray, "m 2"]) -> int:
    """Return 1 if the chosen response is longer more often than shorter, -1 if less often, else 0."""
    return int(np.sign(np.sign(lengths[pairs[:, 0]] - lengths[pairs[:, 1]]).sum()))
