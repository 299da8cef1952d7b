"""How many directions of style to take out: tried on folds of the training prompts and of the twins' prompts.

Axes: `n` responses, `m` training pairs, `twins` pairs of twins, `d_in` width of the residual stream, `d` sum
of the widths of all layers.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64, UInt64

from sparserm_cli.data.splits import grouped_folds

SIZES = (0, 1, 2, 4, 8, 16, 32, 64)
"""Numbers of style directions per layer that are tried."""
FOLDS = 5
TRIAL_PAIRS = 5_000
"""Training pairs that are used at most."""
TOLERANCE = 0.005
"""Accuracy on the pairs as they are that taking directions of style out may cost."""
RIDGE = 0.1
"""Penalty of the probe, as a share of the mean squared length of a standardised difference per dimension."""


class Twins(NamedTuple):
    """Differences of twins, which say the same in two styles."""

    differences: Mapping[int, Float32[np.ndarray, "twins d_in"]]
    """Layer to the mean-pooled vector of the first twin less that of the second."""
    groups: UInt64[np.ndarray, " twins"]
    """Key of the prompt of each pair of twins."""


class SizeTrial(NamedTuple):
    """Accuracies of a ridge probe without so many directions of style, on held-out pairs and twins.

    Fields:
        clean: on the pairs as they are.
        rejected_styled: with each twin's difference added to each rejected response.
        chosen_styled: with each twin's difference added to each chosen response.
    """

    clean: float
    rejected_styled: float
    chosen_styled: float


def try_sizes(
    vectors: Mapping[int, Float32[np.ndarray, "n d_in"]],
    pairs: Int64[np.ndarray, "m 2"],
    groups: UInt64[np.ndarray, " m"],
    twins: Twins,
    seed: int,
) -> dict[int, SizeTrial]:
    """Measure every number of directions that the twins can give.

    The probe is the ridge regression of 1 on the standardised differences, chosen less rejected, of the
    training folds. Directions of style come from the twins of the training folds, shifts from held-out twins.

    Args:
        vectors: layer to one mean-pooled vector per response.
        pairs: chosen and rejected response of each training pair.
        groups: key of the prompt of each pair.
        twins: the differences of the twins.
        seed: seed of the folds, of the shifts and of the choice of at most `TRIAL_PAIRS` pairs.

    Raises:
        BadInputError: there are fewer prompts of training pairs or of twins than folds.

    """
    rng = np.random.default_rng(seed)
    if len(pairs) > TRIAL_PAIRS:
        kept = rng.choice(len(pairs), TRIAL_PAIRS, replace=False)
        pairs, groups = pairs[kept], groups[kept]
    layers = tuple(twins.differences)
    scale = np.concatenate([vectors[layer].std(axis=0, dtype=np.float64) + 1e-6 for layer in layers])
    differences = np.concatenate(
        [vectors[layer][pairs[:, 0]] - vectors[layer][pairs[:, 1]] for layer in layers], axis=1
    ).astype(np.float64)
    fold, twin_fold = grouped_folds(groups, FOLDS, seed), grouped_folds(twins.groups, FOLDS, seed)
    # A basis can have no more directions than there are twins to span it.
    most = min(len(twin_fold) - int(np.bincount(twin_fold).max()), len(scale)) - 1
    right: dict[int, list[list[float]]] = {size: [] for size in SIZES if size <= most}
    for number in range(FOLDS):
        train, held_out = differences[fold != number], differences[fold == number]
        shifts = np.concatenate(
            [twins.differences[layer][twin_fold == number] for layer in layers], axis=1
        ).astype(np.float64)
        bases = [style_basis(twins.differences[layer][twin_fold != number], max(right)) for layer in layers]
        second, mean = train.T @ train, train.sum(axis=0)
        for size in right:
            probe = _probe(second, mean, scale, [basis[:size] for basis in bases])
            margins, moved = np.sort(held_out @ probe), shifts @ probe
            right[size].append([_share_above(margins, shift) for shift in (np.zeros(1), moved, -moved)])
    return {size: SizeTrial(*map(float, np.mean(parts, axis=0))) for size, parts in right.items()}


def _share_above(margins: Float64[np.ndarray, " n"], shifts: Float64[np.ndarray, " twins"]) -> float:
    """Return the share of all combinations of one of the rising margins and a shift in which it is larger."""
    return 1 - float(np.searchsorted(margins, shifts, side="right").mean()) / len(margins)


def best_size(tried: Mapping[int, SizeTrial]) -> int:
    """Return the number of directions with the best worst accuracy, at hardly any cost.

    Only numbers that lose at most `TOLERANCE` on the pairs as they are count; taking out nothing is one of
    them. Of equal ones the smallest wins.
    """
    harmless = [size for size, found in tried.items() if found.clean >= tried[0].clean - TOLERANCE]
    return max(sorted(harmless), key=lambda size: min(tried[size]))


def _probe(
    second: Float64[np.ndarray, "d d"],
    mean: Float64[np.ndarray, " d"],
    scale: Float64[np.ndarray, " d"],
    bases: list[Float32[np.ndarray, "size d_in"]],
) -> Float64[np.ndarray, " d"]:
    """Return the weights, on raw vectors, of a ridge probe that sees them without style and standardised."""
    projector = np.eye(len(scale))
    begin = 0
    for basis in bases:
        part = slice(begin, begin + basis.shape[1])
        projector[part, part] -= basis.T.astype(np.float64) @ basis
        begin = part.stop
    seen = projector / scale
    inner = seen.T @ second @ seen
    penalty = RIDGE * np.trace(inner) / len(inner)
    weights = np.linalg.solve(inner + penalty * np.eye(len(inner)), seen.T @ mean)
    return np.asarray(seen @ weights)


def style_basis(differences: Float[np.ndarray, "rows d_in"], size: int) -> Float32[np.ndarray, "size d_in"]:
    """Return the mean difference and the leading components around it, orthonormal, `size` together.

    The first directions of a larger basis are those of a smaller one.
    """
    values = differences.astype(np.float64)
    if size == 0:
        return np.empty((0, values.shape[1]), np.float32)
    mean = values.mean(axis=0)
    first = mean / (np.linalg.norm(mean) or 1.0)
    rest = values - np.outer(values @ first, first)
    _, _, components = np.linalg.svd(rest, full_matrices=False)
    basis, _ = np.linalg.qr(np.vstack([first, components[: size - 1]]).T)
    return np.ascontiguousarray(basis.T, np.float32)
