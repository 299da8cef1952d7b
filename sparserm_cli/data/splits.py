"""Split examples without separating those of one prompt, and count the prompts that two sets share.

Axis legend: n = examples.
"""

import numpy as np
import xxhash
from jaxtyping import Bool, Int64, UInt64

from sparserm_cli.errors import BadInputError

_GOLDEN = 0x9E3779B97F4A7C15


def group_key(prompt_text: str) -> int:
    """Return the 64-bit xxh3 hash of a rendered prompt; equal prompts form one group."""
    return xxhash.xxh3_64_intdigest(prompt_text.encode("utf-8", "surrogatepass"))


def grouped_folds(groups: UInt64[np.ndarray, " n"], folds: int, seed: int) -> Int64[np.ndarray, " n"]:
    """Return a fold index per element; groups stay whole, and the folds are as equal in size as possible.

    The largest groups are placed first, each into the fold that has the fewest elements so far; groups of one
    size come in an order drawn from `seed`. The order of the elements does not matter.

    Raises:
        BadInputError: there are fewer groups than folds.

    """
    keys, inverse, counts = np.unique(groups, return_inverse=True, return_counts=True)
    if folds < 2 or len(keys) < folds:
        raise BadInputError(
            "grouped folds",
            f"at least {max(folds, 2)} prompts",
            f"{len(keys)}",
            "use fewer folds or more data",
        )
    order = np.lexsort((mixed_bits(keys, seed), -counts))
    fold_of_group = np.empty(len(keys), dtype=np.int64)
    sizes = np.zeros(folds, dtype=np.int64)
    for group in order:
        fold = int(np.argmin(sizes))
        fold_of_group[group] = fold
        sizes[fold] += counts[group]
    return fold_of_group[inverse.reshape(-1)]


def validation_mask(groups: UInt64[np.ndarray, " n"], fraction: float, seed: int) -> Bool[np.ndarray, " n"]:
    """Return which elements are for validation: about `fraction` of the groups, each group whole.

    A group is chosen by its own hash and `seed` alone, so adding or removing other rows does not move it.
    """
    return mixed_bits(groups, seed).astype(np.float64) < fraction * 2.0**64


def overlap(groups_a: UInt64[np.ndarray, " n"], groups_b: UInt64[np.ndarray, " m"]) -> int:
    """Return how many prompts of the first set are in the second, by `group_key`."""
    return len(np.intersect1d(groups_a, groups_b))


def mixed_bits(keys: UInt64[np.ndarray, " n"], seed: int) -> UInt64[np.ndarray, " n"]:
    """Return 64 well-mixed bits per key and seed (the finaliser of splitmix64, Steele et al. 2014)."""
    start = np.uint64((seed * _GOLDEN + _GOLDEN) % 2**64)
    mixed = keys.astype(np.uint64) ^ start
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
