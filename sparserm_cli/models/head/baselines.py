"""Baselines that use no SAE, in one table: `fit` stores some as controls, `compare` tries them all.

A baseline of directions stands in for the directions of SparseRM under the same head. The others have nothing
to choose: the difference of means is a direction and its score in one, and length needs no vector.

Axes: `n` responses, `m` training pairs, `d_in` width of the residual stream.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64

from sparserm_cli.statistics.pair_moments import moments


@dataclass(frozen=True)
class LabelledVectors:
    """Data that a baseline may learn from: one layer of the training pairs."""

    vectors: Float32[np.ndarray, "n d_in"]
    """One pooled vector per response."""
    pairs: Int64[np.ndarray, "m 2"]
    """Chosen and rejected response of each training pair."""


Directions = Float32[np.ndarray, "directions d_in"]
Draw = Callable[[LabelledVectors, int, int], Directions]
"""Gives at most so many directions of one layer, with a seed for what is random."""


def random_directions(count: int, d_in: int, seed: int) -> Directions:
    """Return directions of norm 1, uniform on the sphere."""
    drawn = np.random.default_rng(seed).standard_normal((count, d_in))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def layer_seed(seed: int, layer: int) -> int:
    """Return the seed of what is drawn for one layer, so that layers differ."""
    return seed + 1000 * (layer + 1)


def _random(given: LabelledVectors, count: int, seed: int) -> Directions:
    """Draw directions of norm 1."""
    return random_directions(count, given.vectors.shape[1], seed)


def _components(given: LabelledVectors, count: int, _seed: int) -> Directions:
    """Return principal components of the training responses."""
    taken = given.vectors[np.unique(given.pairs)]
    centred = taken - taken.mean(axis=0)
    return leading(centred.T @ centred, count)


def _pair_components(given: LabelledVectors, count: int, _seed: int) -> Directions:
    """Return principal components of chosen less rejected vectors."""
    return leading(moments(given.vectors, given.pairs).second, count)


def _partial_least_squares(given: LabelledVectors, count: int, _seed: int) -> Directions:
    """Return the directions of partial least squares of the label on standardised differences of pairs.

    With pairs in both orders the label has mean 0, and the weights of PLS span the Krylov space of the second
    moments from the mean difference on (Helland 1988, Communications in Statistics 17). Each number of a
    vector is divided by its standard deviation first, so that no outlier dimension leads.
    """
    scale = given.vectors[np.unique(given.pairs)].std(axis=0, dtype=np.float64) + 1e-12
    pair_moments = moments(given.vectors, given.pairs)
    second, start = pair_moments.second / np.outer(scale, scale), pair_moments.mean / scale
    basis, step = np.empty((0, len(start))), start
    for _ in range(min(count, len(start))):
        before = np.linalg.norm(step)
        for _twice in range(2):  # once leaves rounding errors that later steps enlarge
            step = step - basis.T @ (basis @ step)
        length = np.linalg.norm(step)
        if length <= 1e-10 * before:  # what is left of the pairs has no part in the label
            break
        basis = np.vstack([basis, step / length])
        step = second @ basis[-1]
    return np.ascontiguousarray(basis / scale, np.float32)


def leading(second: Float[np.ndarray, "d_in d_in"], most: int) -> Directions:
    """Return the leading eigenvectors of second moments, at most so many."""
    _, components = np.linalg.eigh(second.astype(np.float64))
    return np.ascontiguousarray(components[:, ::-1][:, :most].T, np.float32)


@dataclass(frozen=True)
class Baseline:
    """Directions that stand in for those of SparseRM."""

    kind: str
    """Short name, without spaces."""
    draw: Draw
    """Gives the directions of one layer."""
    in_fit: bool = False
    """Whether `fit` stores it as a control; `compare` always tries it."""

    def of_layers(
        self, given: Mapping[int, LabelledVectors], counts: Mapping[int, int], seed: int
    ) -> dict[int, Directions]:
        """Return equally many directions of each layer.

        Args:
            given: layer to what may be learned from.
            counts: layer to the number of directions that are wanted; there are fewer where the pairs of a
                layer span fewer.
            seed: seed of what is random.

        """
        drawn = {
            layer: self.draw(vectors, counts[layer], layer_seed(seed, layer))
            for layer, vectors in given.items()
        }
        fewest = min(map(len, drawn.values()))
        return {layer: directions[:fewest] for layer, directions in drawn.items()}


BASELINES: dict[str, Baseline] = {
    "components of responses": Baseline("components", _components),
    "components of pairs": Baseline("pair-components", _pair_components),
    "partial least squares": Baseline("partial-least-squares", _partial_least_squares, in_fit=True),
    "random directions": Baseline("random-directions", _random, in_fit=True),
}
"""Name, as tables call it, to baseline."""


def difference_of_means(
    vectors: Float32[np.ndarray, "n p"],
    pairs: Int64[np.ndarray, "m 2"],
    counts: Float32[np.ndarray, " m"] | None = None,
) -> Float32[np.ndarray, " p"]:
    """Return the mean chosen less the mean rejected vector: a direction and a linear score in one.

    Args:
        vectors: one vector per response.
        pairs: chosen and rejected response of each pair.
        counts: how much each pair counts; None if all count alike.

    """
    apart = vectors[pairs[:, 0]] - vectors[pairs[:, 1]]
    if counts is not None:
        apart = apart * (counts / max(counts.mean(dtype=np.float64), 1e-30)).astype(np.float32)[:, None]
    weight: Float32[np.ndarray, " p"] = apart.mean(axis=0)
    return weight


def length_preference(
    lengths: Int64[np.ndarray, " n"] | Float64[np.ndarray, " n"],
    pairs: Int64[np.ndarray, "m 2"],
    counts: Float32[np.ndarray, " m"] | None = None,
) -> int:
    """Return 1 if the chosen response is longer more often than shorter, -1 if less often, else 0.

    Args:
        lengths: number of tokens of each response.
        pairs: chosen and rejected response of each pair.
        counts: how much each pair counts; None if all count alike.

    """
    longer = np.sign(lengths[pairs[:, 0]] - lengths[pairs[:, 1]])
    return int(np.sign(longer.sum() if counts is None else (longer * counts.astype(np.float64)).sum()))
