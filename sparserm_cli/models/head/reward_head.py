"""Reward heads: pooled residual vectors in, scores out. Linear, or one hidden layer of ReLUs.

Axes: `n` responses, `d_in` width of the residual stream, `p` projections (layers x poolings x directions).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Self

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from sparserm_cli.models.head.heads import kind_of
from sparserm_cli.store.artifacts.head_arrays import HeadArrays
from sparserm_cli.store.artifacts.reward import RewardFiles
from sparserm_cli.store.artifacts.reward_checks import POOLINGS

Pooled = Mapping[int, Mapping[str, Float32[np.ndarray, "n d_in"]]]
"""Layer to pooling to one vector per response."""

_CHUNK = 8192  # responses projected together


class RewardHead:
    """A fitted head.

    Args:
        arrays: its tensors.
        layers: the layers whose vectors it takes, in order.
        pool: mean, last or both.
        device: where it computes.

    """

    def __init__(self, arrays: HeadArrays, layers: Sequence[int], pool: str, device: str = "cpu") -> None:
        self.arrays, self.layers, self._pool, self.device = arrays, tuple(layers), pool, device
        self.poolings = POOLINGS[pool]
        self._directions = {
            layer: torch.as_tensor(rows, device=device) for layer, rows in arrays.directions.items()
        }
        self._mean = torch.as_tensor(arrays.mean, device=device)
        self._std = torch.as_tensor(arrays.std, device=device)
        self._weights = {
            name: torch.as_tensor(tensor, device=device) for name, tensor in arrays.weights.items()
        }

    @classmethod
    def from_files(cls, files: RewardFiles, control: str | None = None, device: str = "cpu") -> Self:
        """Return the head of a reward model, or one of its controls by name."""
        arrays = files.head if control is None else files.controls[control]
        pool = files.config.pool if arrays.directions else "mean"
        return cls(arrays, files.config.layers, pool, device)

    def normalised(self, mean: float, std: float) -> Self:
        """Return a head whose scores are `(score - mean) / std`; parts still add up to the score."""
        weights = dict(self.arrays.weights)
        last = kind_of(weights).output
        weights[last] = weights[last] / np.float32(std)
        weights["bias"] = (weights["bias"] - np.float32(mean)) / np.float32(std)
        return type(self)(replace(self.arrays, weights=weights), self.layers, self._pool, self.device)

    def __call__(self, pooled: Pooled) -> Float32[np.ndarray, " n"]:
        """Score pooled vectors, which are given as layer to pooling to one row per response."""
        first = pooled[self.layers[0]][self.poolings[0]]
        scores = [
            self.score(self.standardised(pooled, slice(start, start + _CHUNK)))
            for start in range(0, len(first), _CHUNK)
        ]
        return torch.cat(scores).cpu().numpy() if scores else np.empty(0, np.float32)

    def standardised(self, pooled: Pooled, rows: slice = slice(None)) -> Float32[Tensor, "taken p"]:
        """Return the standardised projections of some rows."""
        parts = []
        for layer in self.layers:
            for pooling in self.poolings:
                vectors = torch.as_tensor(pooled[layer][pooling][rows], device=self._mean.device)
                directions = self._directions.get(layer)
                parts.append(vectors if directions is None else vectors @ directions.T)
        return (torch.cat(parts, dim=1) - self._mean) / self._std

    def score(self, x: Float32[Tensor, "n p"]) -> Float32[Tensor, " n"]:
        """Score standardised projections; differentiable, for attributions."""
        return kind_of(self._weights).score(self._weights, x)
