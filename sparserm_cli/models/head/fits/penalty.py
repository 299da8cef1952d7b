"""The penalty of a linear head on pairs: its geometry and its strength, chosen on the validation pairs.

The penalty is a sum of squares of the weights of principal components of the training responses, each divided
by its standard deviation to the power `whitening`. With 0 this is ridge regression, which trusts the strong
components; with 1 all components would be alike. Which geometry predicts best depends on the number of pairs
and on the features, so every method chooses its own by the same rule.

Only the validation pairs can judge: labels of training pairs have chosen the directions, and training
responses have made the components, so folds of them prefer penalties that are too weak.

Axes: `n` responses, `p` projections, `m` pairs. All numbers are float32, and nothing here is random.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from scipy.optimize import minimize
from torch import Tensor

from sparserm_cli.models.head.pair_data import PairData, pair_loss

STRENGTHS = tuple(float(strength) for strength in np.logspace(1, -4, 11))
"""Strengths of the penalty that are tried, from strong to weak."""
WHITENINGS = (0.0, 0.25, 0.5)
"""Powers of the components' standard deviations that are tried, the simplest first."""
_FLOOR = 1e-3  # of a component's variance relative to the mean variance
_PATIENCE = 2  # weaker strengths tried after the best one


Losses = Float64[np.ndarray, " validation"]
"""The loss of each validation pair."""


class Basis(NamedTuple):
    """Coordinates in which the penalty is a plain sum of squares.

    Fields:
        to: matrix that transforms standardised projections to these coordinates, shape (p, p).
        z: the responses in these coordinates.
    """

    to: Float32[np.ndarray, "p p"]
    z: Float32[Tensor, "n p"]


class Penalty(NamedTuple):
    """A penalty and how it was chosen.

    Fields:
        coordinates: coordinates in which it is a sum of squares.
        whitening: one of WHITENINGS.
        strength: one of STRENGTHS.
        loss: mean loss of the validation pairs; NaN without any.
    """

    coordinates: Basis
    whitening: float
    strength: float
    loss: float

    def facts(self) -> dict[str, Any]:
        """Return what a reward model records about the penalty."""
        return {"whitening": self.whitening, "l2": self.strength}


def bases(data: PairData, whitenings: Sequence[float]) -> list[Basis]:
    """Return the principal components of the training responses, whitened to each of several powers."""
    rows = np.unique(data.train_pairs)
    x = torch.as_tensor(data.x)
    taken = x[rows]
    covariance = (taken.T @ taken / len(rows)).double().numpy()
    variance, components = np.linalg.eigh(covariance)
    relative = np.maximum(variance, 0.0) / max(float(variance.mean()), 1e-12) + _FLOOR
    rotated = x @ torch.as_tensor(components.astype(np.float32))
    made = []
    for whitening in whitenings:
        scale = (relative ** (-whitening / 2)).astype(np.float32)
        made.append(Basis(components.astype(np.float32) * scale, rotated * torch.as_tensor(scale)))
    return made


def choose_penalty(data: PairData, loss: str, progress: Callable[[int, int], None] | None = None) -> Penalty:
    """Choose whitening and strength together, by the loss of the validation pairs.

    For each whitening the strengths go from strong to weak until the loss has risen twice. A further
    whitening is taken only where it lowers the loss by more than the standard error of the difference over
    prompts, so that a handful of prompts leaves ridge regression in place. Without validation pairs nothing
    can judge, and ridge regression of the middle strength is taken.

    Args:
        data: projections and pairs.
        loss: margin, bt or bce.
        progress: called with penalties tried and penalties in all.

    """
    if not data.weight[data.validation].any():
        (coordinates,) = bases(data, WHITENINGS[:1])
        return Penalty(coordinates, WHITENINGS[0], STRENGTHS[len(STRENGTHS) // 2], float("nan"))
    chosen: tuple[Penalty, Losses] | None = None
    for number, (whitening, coordinates) in enumerate(zip(WHITENINGS, bases(data, WHITENINGS), strict=True)):
        tried: list[Losses] = []
        means: list[float] = []
        for _, solution in _path(coordinates.z, data, np.flatnonzero(~data.validation), loss):
            tried.append(_losses(coordinates.z, solution, data, loss))
            means.append(_mean(tried[-1], data))
            if progress:
                progress(number * len(STRENGTHS) + len(tried), len(STRENGTHS) * len(WHITENINGS))
            if len(means) - 1 - int(np.argmin(means)) >= _PATIENCE:
                break
        best = int(np.argmin(means))
        if chosen is None or _is_lower(tried[best], chosen[1], data):
            chosen = Penalty(coordinates, whitening, STRENGTHS[best], means[best]), tried[best]
    if chosen is None:
        raise AssertionError("no whitening to try")
    return chosen[0]


def solved(
    data: PairData, penalty: Penalty, loss: str, *, training_only: bool = False
) -> Float64[np.ndarray, " solution"]:
    """Fit with one penalty, approached from stronger ones.

    Args:
        data: projections and pairs.
        penalty: the chosen penalty.
        loss: margin, bt or bce.
        training_only: leave the validation pairs out.

    Returns:
        Weights in the coordinates of the penalty, then the bias; float64 of shape (p + 1,).

    """
    places = np.flatnonzero(~data.validation) if training_only else np.arange(len(data.pairs))
    path = _path(penalty.coordinates.z, data, places, loss)
    return next(solution for strength, solution in path if strength <= penalty.strength)


def _is_lower(losses: Losses, others: Losses, data: PairData) -> bool:
    """Tell whether losses are lower than others by more than the standard error of the mean over prompts."""
    weight = data.weight[data.validation].astype(np.float64)
    prompts, prompt = np.unique(data.prompts[data.validation], return_inverse=True)
    gain = (others - losses) * weight
    mean = float(gain.sum() / weight.sum())
    spread = np.bincount(prompt.reshape(-1), gain - mean * weight)
    return len(prompts) > 1 and mean > float(np.sqrt(np.square(spread).sum())) / float(weight.sum())


def _mean(losses: Losses, data: PairData) -> float:
    """Return the weighted mean of the losses of the validation pairs."""
    return float(np.average(losses, weights=data.weight[data.validation].astype(np.float64)))


def _path(
    z: Float32[Tensor, "n p"], data: PairData, places: Int64[np.ndarray, " taken"], loss: str
) -> Iterator[tuple[float, Float64[np.ndarray, " solution"]]]:
    """Yield strengths, from strong to weak, with the solution (weights and bias) on some pairs."""
    rows, index = np.unique(data.pairs[places], return_inverse=True)
    pairs, weight = torch.as_tensor(index.reshape(-1, 2)), torch.as_tensor(data.weight[places])
    problem = _Problem(z[torch.as_tensor(rows)], pairs, weight, loss)
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
        counted = weight.sum().clamp_min(torch.finfo(weight.dtype).tiny)
        mean_square = (difference.square() * weight[:, None]).sum(0) / counted
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
        result = minimize(objective, start / scale, (), "L-BFGS-B", jac=True, options=options)
        return np.asarray(result.x) * scale

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


def _losses(
    z: Float32[Tensor, "n p"], solution: Float64[np.ndarray, " solution"], data: PairData, loss: str
) -> Losses:
    """Return the loss of each validation pair."""
    pairs, direction = data.pairs[data.validation], torch.as_tensor(solution[:-1].astype(np.float32))
    bias = float(solution[-1])
    chosen, rejected = (z[torch.as_tensor(pairs[:, side])] @ direction + bias for side in (0, 1))
    alone = pair_loss(chosen[:, None], rejected[:, None], torch.ones(1), loss)  # one pair per member
    return alone.double().numpy()
