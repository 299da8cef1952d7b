"""Move a head towards a few labelled pairs: ridge towards the old head, its strength by inner folds.

The new score is the old one plus `x @ shift`, where x are the standardised projections. The shift minimises
mean(-log sigmoid(margin)) + strength / 2 * |shift|^2, the loss of Bradley and Terry 1952 with the old head as
the prior mean of the weights, so that a strength without bound is the old head. This holds for every kind of
head: the shift is added to a linear one, and a hidden layer gets two units that add it to the score.

Axes: `n` responses, `m` pairs, `p` projections.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, UInt64
from scipy.optimize import minimize
from scipy.special import expit

from sparserm_cli.data.splits import grouped_folds

STRENGTHS = tuple(float(strength) for strength in np.logspace(2, -3, 11))
"""Strengths of the penalty that are tried, from strong to weak."""
FOLDS = 5
"""Most inner folds; with fewer prompts there is one per prompt."""


class Tried(NamedTuple):
    """A strength on the inner folds: mean loss, and share of pairs whose chosen response scores higher."""

    strength: float
    loss: float
    accuracy: float


class Adaptation(NamedTuple):
    """The result of an adaptation.

    Fields:
        shift: what is added to the weights; 0 where the old head is kept.
        strength: the chosen strength; None where the old head is kept.
        old: the old head on the pairs, with an infinite strength.
        tried: each strength on pairs that its heads had not seen.
        margins: margin of each pair by the chosen strength, from heads that had not seen it, averaged over
            the repeats; those of the old head where it is kept.
    """

    shift: Float64[np.ndarray, " p"]
    strength: float | None
    old: Tried
    tried: tuple[Tried, ...]
    margins: Float64[np.ndarray, " m"]


def adaptation(
    differences: Float64[np.ndarray, "m p"],
    margins: Float64[np.ndarray, " m"],
    groups: UInt64[np.ndarray, " m"],
    *,
    repeats: int,
    seed: int,
) -> Adaptation:
    """Choose a strength on folds of the prompts, and fit the shift with it on all pairs.

    The chosen strength has the least loss on the inner folds among those that are right on at least as many
    pairs as the old head. Where none of them has less loss than the old head, the old head is kept.

    Args:
        differences: chosen less rejected standardised projections of each pair.
        margins: margin of each pair by the old head.
        groups: prompt of each pair; at least two prompts.
        repeats: number of times that the prompts are divided into folds.
        seed: seed of the folds.

    """
    folds, whole = min(FOLDS, len(np.unique(groups))), differences
    # The shift is a combination of the pairs' differences, so it is sought among these alone.
    basis = np.linalg.qr(whole.T)[0] if len(whole) < whole.shape[1] else np.eye(whole.shape[1])
    differences = whole @ basis
    unseen = np.empty((repeats, len(STRENGTHS), len(margins)))
    for repeat in range(repeats):
        fold = grouped_folds(groups, folds, seed + repeat)
        for number in range(folds):
            learned, tested = fold != number, fold == number
            shifts = _path(differences[learned], margins[learned])
            unseen[repeat][:, tested] = margins[tested] + shifts @ differences[tested].T
    old = _tried(np.inf, margins)
    tried = tuple(_tried(strength, unseen[:, number]) for number, strength in enumerate(STRENGTHS))
    good = [each for each in tried if each.accuracy >= old.accuracy and each.loss < old.loss]
    if not good:
        return Adaptation(np.zeros(whole.shape[1]), None, old, tried, margins)
    best = min(good, key=lambda each: each.loss)
    number = tried.index(best)
    shift = basis @ _path(differences, margins)[number]
    return Adaptation(shift, best.strength, old, tried, unseen[:, number].mean(axis=0))


def shifted(
    weights: Mapping[str, Float32[np.ndarray, "..."]], shift: Float64[np.ndarray, " p"]
) -> dict[str, Float32[np.ndarray, "..."]]:
    """Return the tensors of a head whose score is that of `weights` plus `x @ shift`."""
    if "weight" in weights:
        return {**weights, "weight": (weights["weight"] + shift).astype(np.float32)}
    # The shift's part is relu(x @ shift) - relu(-x @ shift).
    column = shift.astype(np.float32)[:, None]
    return {
        **weights,
        "weight_1": np.concatenate([weights["weight_1"], column, -column], axis=1),
        "bias_1": np.append(weights["bias_1"], np.zeros(2, np.float32)),
        "weight_2": np.append(weights["weight_2"], np.array([1, -1], np.float32)),
    }


def _path(
    differences: Float64[np.ndarray, "m p"], margins: Float64[np.ndarray, " m"]
) -> Float64[np.ndarray, "strengths p"]:
    """Return the shift of each strength, each search starting at the shift of the stronger penalty."""
    shift, shifts = np.zeros(differences.shape[1]), []
    for strength in STRENGTHS:

        def objective(at: Any, strength: float = strength) -> tuple[float, np.ndarray]:
            moved = margins + differences @ at
            value = np.logaddexp(0, -moved).mean() + strength / 2 * at @ at
            return float(value), -(expit(-moved) @ differences) / len(moved) + strength * at

        shift = np.asarray(minimize(objective, shift, method="L-BFGS-B", jac=True).x)
        shifts.append(shift)
    return np.array(shifts)


def _tried(strength: float, margins: Float64[np.ndarray, "... m"]) -> Tried:
    """Return the mean loss and accuracy of margins; a tie is wrong."""
    return Tried(strength, float(np.logaddexp(0, -margins).mean()), float(np.mean(margins > 0)))
