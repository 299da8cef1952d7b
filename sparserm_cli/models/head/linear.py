"""Fitting a reward head on pairs of standardised projections: what each loss is, and the linear head.

Axes: `n` responses, `p` projections, `m` pairs. All numbers are float32; every choice (strength of the
penalty, when to stop) is made on the validation pairs, and a seed fixes everything random.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from scipy.optimize import minimize
from torch import Tensor

from sparserm_cli.models.head.heads import centred
from sparserm_cli.models.head.pair_data import Fitted, PairData, pair_loss

STRENGTHS = tuple(float(strength) for strength in np.logspace(1, -4, 11))
"""Strengths of the penalty that are tried, from strong to weak."""


WHITENING = 0.5
"""The penalty is on weights of projections whose principal components have been divided by their standard
deviation to this power: 0 is ridge, 1 treats all components alike."""


_FLOOR = 1e-3  # of a component's variance relative to the mean one


_PATIENCE = 2  # weaker strengths tried after the best one


class Basis(NamedTuple):
    """Coordinates in which the penalty is a plain sum of squares.

    Fields:
        to: matrix that transforms standardised projections to these coordinates, shape (p, p).
        z: the responses in these coordinates.
    """

    to: Float32[np.ndarray, "p p"]
    z: Float32[Tensor, "n p"]


def basis(data: PairData) -> Basis:
    """Return the partly whitened principal components of the training responses."""
    rows = np.unique(data.train_pairs)
    x = torch.as_tensor(data.x)
    taken = x[rows]
    covariance = (taken.T @ taken / len(rows)).double().numpy()
    variance, components = np.linalg.eigh(covariance)
    relative = np.maximum(variance, 0.0) / max(float(variance.mean()), 1e-12) + _FLOOR
    to = (components * relative ** (-WHITENING / 2)).astype(np.float32)
    return Basis(to, x @ torch.as_tensor(to))


class LinearFit(NamedTuple):
    """A linear head in the coordinates of a `Basis`.

    Fields:
        solution: weights and bias.
        strength: strength of the penalty with the least loss on the validation pairs.
        validation_loss: that loss; NaN without validation pairs.
    """

    solution: Float64[np.ndarray, " solution"]
    strength: float
    validation_loss: float


def fit_linear(
    data: PairData, loss: str, *, seed: int = 0, progress: Callable[[int, int], None] | None = None
) -> Fitted:
    """Fit a linear head: a convex problem, solved for a path of penalties by L-BFGS.

    The strength is the one with the least loss on the validation pairs after fitting on the others; with it
    the head is fitted on all pairs.

    Args:
        data: projections and pairs.
        loss: margin, bt or bce.
        seed: not used, since nothing here is random; every fit of a head takes one.
        progress: called with strengths tried and strengths in all.

    """
    del seed
    coordinates = basis(data)
    chosen = choose_strength(data, coordinates, loss, progress)
    solutions = (refitted(data, coordinates, loss, chosen.strength), chosen.solution)
    final, validated = (
        centred(data, {"weight": (coordinates.to.astype(np.float64) @ solution[:-1]).astype(np.float32)})
        for solution in solutions
    )
    facts = {"l2": chosen.strength}
    if data.validation.any():
        facts["validation_loss"] = chosen.validation_loss
    return Fitted(final, validated, facts)


def refitted(
    data: PairData, coordinates: Basis, loss: str, strength: float
) -> Float64[np.ndarray, " solution"]:
    """Fit on all pairs with one strength, approached from the stronger ones."""
    path = _path(coordinates.z, data.pairs, data.weight, loss)
    return next(solution for tried, solution in path if tried <= strength)


def choose_strength(
    data: PairData,
    coordinates: Basis,
    loss: str,
    progress: Callable[[int, int], None] | None = None,
) -> LinearFit:
    """Fit with one strength after the other, from strong to weak, until the validation loss rises.

    Without validation pairs the middle strength is taken.
    """
    held_out, weight = data.pairs[data.validation], data.weight[data.validation]
    last = len(STRENGTHS) // 2
    tried: list[LinearFit] = []
    for strength, solution in _path(coordinates.z, data.train_pairs, data.weight[~data.validation], loss):
        held_out_loss = (
            _loss_of(coordinates.z, solution, held_out, weight, loss) if len(held_out) else float("nan")
        )
        tried.append(LinearFit(solution, strength, held_out_loss))
        if progress:
            progress(len(tried), len(STRENGTHS))
        best = int(np.argmin([fit.validation_loss for fit in tried])) if len(held_out) else len(tried) - 1
        if len(tried) - 1 - best >= _PATIENCE or (not len(held_out) and best == last):
            break
    return tried[best]


def _path(
    z: Float32[Tensor, "n p"], pairs: Int64[np.ndarray, "m 2"], weight: Float32[np.ndarray, " m"], loss: str
) -> Iterator[tuple[float, Float64[np.ndarray, " solution"]]]:
    """Yield strength and solution (weights and bias), from strong to weak, each starting at the last."""
    problem = _Problem(z, torch.as_tensor(pairs), torch.as_tensor(weight), loss)
    solution = np.zeros(z.shape[1] + 1)
    for strength in STRENGTHS:
        solution = problem.solve(strength, solution)
        yield strength, solution


class _Problem:
    """The penalised loss of a linear head, with its gradient."""

    def __init__(
        self, z: Float32[Tensor, "n p"], pairs: Int64[Tensor, "m 2"], weight: Float32[Tensor, " m"], loss: str
    ) -> None:
        self._z, self._pairs, self._weight, self._loss = z, pairs, weight.double(), loss
        difference = z[pairs[:, 0]] - z[pairs[:, 1]]
        mean_square = (difference.square() * weight[:, None]).sum(0) / weight.sum()
        self._curvature = mean_square.double().numpy() / 4

    def solve(
        self, strength: float, start: Float64[np.ndarray, " solution"]
    ) -> Float64[np.ndarray, " solution"]:
        """Return weights and bias that minimise loss + strength / 2 * |weights|^2."""
        # Steps of L-BFGS are taken in units of the curvature, so that a few dozen are enough.
        scale = np.append(1 / np.sqrt(self._curvature + strength), 1.0)

        def objective(u: Any, *_: Any) -> tuple[float, np.ndarray]:
            value, gradient = self._evaluate(u * scale, strength)
            return value, gradient * scale

        options: Any = {"maxiter": 200, "ftol": 1e-8, "gtol": 1e-5}
        minimum = minimize(objective, start / scale, (), "L-BFGS-B", jac=True, options=options)
        return np.asarray(minimum.x) * scale

    def _evaluate(
        self, at: Float64[np.ndarray, " solution"], strength: float
    ) -> tuple[float, Float64[np.ndarray, " solution"]]:
        """Return the objective and its gradient; the products are float32, the sums float64."""
        scores = (self._z @ torch.as_tensor(at[:-1], dtype=torch.float32) + float(at[-1])).double()
        scores.requires_grad_()
        value = pair_loss(scores[self._pairs[:, 0]], scores[self._pairs[:, 1]], self._weight, self._loss)
        (slope,) = torch.autograd.grad(value, scores)
        gradient = np.append((self._z.T @ slope.float()).double().numpy(), float(slope.sum()))
        gradient[:-1] += strength * at[:-1]
        return float(value.detach()) + strength / 2 * float(at[:-1] @ at[:-1]), gradient


def _loss_of(
    z: Float32[Tensor, "n p"],
    solution: Float64[np.ndarray, " solution"],
    pairs: Int64[np.ndarray, "m 2"],
    weight: Float32[np.ndarray, " m"],
    loss: str,
) -> float:
    """Return the loss of a solution on some pairs."""
    scores = z @ torch.as_tensor(solution[:-1].astype(np.float32)) + float(solution[-1])
    return float(pair_loss(scores[pairs[:, 0]], scores[pairs[:, 1]], torch.as_tensor(weight), loss))
