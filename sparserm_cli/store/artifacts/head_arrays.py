"""The heads of a reward model as arrays, and the names of their tensors in a safetensors file.

The module `reward` beside this one documents the tensors.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import xxhash
from jaxtyping import Float32

HEAD_TENSORS: dict[str, tuple[str, ...]] = {
    "linear": ("weight", "bias"),
    "mlp": ("weight_1", "bias_1", "weight_2", "bias"),
}
"""Mapping from head to the names of its tensors; the first has one row per projection."""


@dataclass(frozen=True)
class HeadArrays:
    """A head as arrays."""

    mean: Float32[np.ndarray, " projections"]
    """Mean of each projection over the training responses."""
    std: Float32[np.ndarray, " projections"]
    """Standard deviation of each projection over the training responses."""
    weights: Mapping[str, Float32[np.ndarray, "..."]]
    """The tensors of a linear head or of one with a hidden layer."""
    directions: Mapping[int, Float32[np.ndarray, "directions d_in"]] = field(default_factory=dict)
    """Layer to directions; empty where the pooled vectors themselves are scored."""

    @property
    def parameters(self) -> int:
        """Number of trained parameters."""
        return sum(values.size for values in self.weights.values())


def tensors_of_head(head: HeadArrays) -> dict[str, np.ndarray]:
    """Return the tensors of a head by name."""
    directions = {f"directions.{layer}": rows for layer, rows in head.directions.items()}
    tensors = {**directions, "mean": head.mean, "std": head.std, **head.weights}
    return {name: np.ascontiguousarray(values, np.float32) for name, values in tensors.items()}


def head_of_tensors(tensors: Mapping[str, np.ndarray]) -> HeadArrays:
    """Read a head from its tensors.

    Raises:
        ValueError: the tensors are not those of a head, or they do not fit together.

    """
    layers = sorted(
        int(name.removeprefix("directions.")) for name in tensors if name.startswith("directions.")
    )
    known = {name for names in HEAD_TENSORS.values() for name in names}
    weights = {name: values for name, values in tensors.items() if name in known}
    kind = head_kind(weights)
    head = HeadArrays(
        tensors["mean"], tensors["std"], weights, {layer: tensors[f"directions.{layer}"] for layer in layers}
    )
    projections = len(weights[HEAD_TENSORS[kind][0]])
    if not len(head.mean) == len(head.std) == projections:
        raise ValueError(f"{projections} weights for {len(head.mean)} projections")
    return head


def head_kind(weights: Iterable[str]) -> str:
    """Return the kind of head, in HEAD_TENSORS, that has exactly these tensors.

    Raises:
        ValueError: no head has exactly these tensors.

    """
    present = set(weights)
    for kind, names in HEAD_TENSORS.items():
        if present == set(names):
            return kind
    raise ValueError(f"weights {sorted(present)}")


def tensors_under(tensors: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """Return the tensors whose names start with `NAME/`, without that prefix."""
    return {
        key.removeprefix(f"{name}/"): tensor for key, tensor in tensors.items() if key.startswith(f"{name}/")
    }


def tensors_digest(*groups: Mapping[str, np.ndarray]) -> str:
    """Return the xxh3-128 of all tensors with their names and shapes."""
    hasher = xxhash.xxh3_128()
    for tensors in groups:
        for name in sorted(tensors):
            hasher.update(f"{name} {tensors[name].dtype} {tensors[name].shape}".encode())
            hasher.update(np.ascontiguousarray(tensors[name]).data)
    return hasher.hexdigest()
