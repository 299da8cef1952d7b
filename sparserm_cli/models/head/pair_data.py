"""Pairs of responses as a head sees them, the loss of a head on them, and its accuracy."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64, UInt64
from torch import Tensor

Weights = dict[str, Float32[np.ndarray, "..."]]


_CORNER = (
    10.0  # the margin loss's corner is rounded by softplus at this sharpness: at most 0.07 above the hinge
)


@dataclass(frozen=True)
class PairData:
    """Data that a head is fitted on."""

    x: Float32[np.ndarray, "n p"]
    """Standardised projections of every response."""
    pairs: Int64[np.ndarray, "m 2"]
    """Chosen and rejected response of each pair."""
    validation: Bool[np.ndarray, " m"]
    """Mask of the validation pairs, which choose the penalty and stop the training."""
    weight: Float32[np.ndarray, " m"]
    """Weight of each pair in the loss."""
    views: int = 1
    """Equal parts of the projections that hidden layers see apart: one for each layer and pooling."""
    groups: UInt64[np.ndarray, " m"] | None = None
    """Key of the prompt of each pair; without it every pair counts as a prompt of its own."""

    @property
    def train_pairs(self) -> Int64[np.ndarray, "train 2"]:
        """The pairs that train."""
        return self.pairs[~self.validation]

    @property
    def prompts(self) -> UInt64[np.ndarray, " m"]:
        """Key of the prompt of each pair."""
        return np.arange(len(self.pairs), dtype=np.uint64) if self.groups is None else self.groups


class Fitted(NamedTuple):
    """A fitted head.

    Fields:
        weights: its tensors, as `store.reward` names them; fitted on all pairs, which score 0 on average.
        validated: the same before it was fitted on the validation pairs too: what they can judge.
        facts: what was chosen on the validation pairs.
    """

    weights: Weights
    validated: Weights
    facts: dict[str, Any]


def standardisation(
    projections: Float32[np.ndarray, "n p"], rows: Int64[np.ndarray, " rows"]
) -> tuple[Float32[np.ndarray, " p"], Float32[np.ndarray, " p"]]:
    """Return mean and standard deviation of the projections over some responses; a constant one has 1."""
    taken = projections[rows]
    mean = taken.mean(axis=0, dtype=np.float64)
    std = taken.std(axis=0, dtype=np.float64)
    return mean.astype(np.float32), np.where(std > 1e-6 * (np.abs(mean) + 1e-6), std, 1.0).astype(np.float32)


def pair_loss(
    chosen: Float[Tensor, "*members m"],
    rejected: Float[Tensor, "*members m"],
    weight: Float[Tensor, " m"],
    loss: str,
) -> Float[Tensor, "*members"]:
    """Return the weighted mean loss of pairs from their scores (the last axis is the pairs').

    `bt` is -log sigmoid(chosen - rejected) (Bradley and Terry 1952); `margin` max(0, 1 - (chosen - rejected))
    with its corner rounded; `bce` the mean cross-entropy of calling the one good and the other bad.
    The loss is 0 if every weight is 0.
    """
    softplus = torch.nn.functional.softplus
    if loss == "bt":
        each = softplus(rejected - chosen)
    elif loss == "margin":
        each = softplus(_CORNER * (1 - chosen + rejected)) / _CORNER
    else:
        each = (softplus(-chosen) + softplus(rejected)) / 2
    return (each * weight).sum(-1) / weight.sum().clamp_min(torch.finfo(weight.dtype).tiny)


def accuracy(scores: Float32[np.ndarray, " n"], pairs: Int64[np.ndarray, "m 2"]) -> float:
    """Return the share of pairs whose chosen response scores strictly higher; NaN without pairs."""
    return float(np.mean(scores[pairs[:, 0]] > scores[pairs[:, 1]])) if len(pairs) else float("nan")
