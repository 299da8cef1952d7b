"""The penalty of a linear head on pairs: its geometry and its strength, chosen on prompts that did not train.

The penalty is a sum of squares of the weights of principal components of the training responses, each divided
by its standard deviation to the power `whitening`. With 0 this is ridge regression, which trusts the strong
components; with 1 all components would be alike. Which geometry predicts best depends on the number of pairs
and on the features, so every method chooses its own by the same rule.

Axes: `n` responses, `p` projections, `m` pairs. All numbers are float32, and nothing here is random.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from scipy.optimize import minimize
from torch import Tensor

from sparserm_cli.data.splits import grouped_folds
from sparserm_cli.models.head.pair_data import PairData, pair_loss
from sparserm_cli.store.artifacts.penalties import RECORDED

STRENGTHS = tuple(float(strength) for strength in np.logspace(1, -4, 11))
"""Strengths of the penalty that are tried, from strong to weak."""
WHITENINGS = (0.0, 0.25, 0.5)
"""Powers of the components' standard deviations that are tried."""
INNER_FOLDS = 5
"""Number of folds of the training prompts that choose the penalty where there are few prompts."""
FEW_PROMPTS = 400
"""With fewer training prompts than this all folds of them choose the penalty."""
_FLOOR = 1e-3  # of a component's variance relative to the mean variance
_PATIENCE = 2  # weaker strengths tried after the best one


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
        loss: mean loss of the pairs that judged; NaN where nothing could judge.
        by: what judged, in words.
    """

    coordinates: Basis
    whitening: float
    strength: float
    loss: float
    by: str

    def facts(self) -> dict[str, Any]:
        """Return what a reward model records about the penalty."""
        return dict(zip(RECORDED, (self.whitening, self.strength, self.by), strict=True))


class _Round(NamedTuple):
    """Pairs that learn and pairs that judge, as indices."""

    learned: Int64[np.ndarray, " learned"]
    judged: Int64[np.ndarray, " judged"]


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
    """Choose whitening and strength together, by the loss of pairs whose prompts did not train.

    With fewer than FEW_PROMPTS training prompts INNER_FOLDS folds of them judge, so that the choice does not
    hang on a handful of validation prompts. With more the validation pairs judge, or one fold where there are
    none. For each whitening the strengths go from strong to weak until the loss has risen twice. A single
    prompt tells nothing of another: ridge regression of the middle strength is taken.

    Args:
        data: projections and pairs.
        loss: margin, bt or bce.
        progress: called with penalties tried and penalties in all.

    """
    rounds, by = _rounds(data)
    if not rounds:
        (coordinates,) = bases(data, WHITENINGS[:1])
        return Penalty(coordinates, WHITENINGS[0], STRENGTHS[len(STRENGTHS) // 2], float("nan"), by)
    tried: list[Penalty] = []
    total = len(STRENGTHS) * len(WHITENINGS)
    for number, (whitening, coordinates) in enumerate(zip(WHITENINGS, bases(data, WHITENINGS), strict=True)):
        losses: list[float] = []
        for value in _losses(data, coordinates, loss, rounds):
            losses.append(value)
            if progress:
                progress(number * len(STRENGTHS) + len(losses), total)
            if len(losses) - 1 - int(np.argmin(losses)) >= _PATIENCE:
                break
        best = int(np.argmin(losses))
        tried.append(Penalty(coordinates, whitening, STRENGTHS[best], losses[best], by))
    return min(tried, key=lambda penalty: penalty.loss)


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


def validation_loss(
    data: PairData, penalty: Penalty, solution: Float64[np.ndarray, " solution"], loss: str
) -> float:
    """Return the mean loss of a solution on the validation pairs."""
    return _loss_of(penalty.coordinates.z, solution, data, np.flatnonzero(data.validation), loss)


def _rounds(data: PairData) -> tuple[list[_Round], str]:
    """Return the rounds of the choice, and what judges in words; no rounds for a single prompt."""
    training = np.flatnonzero(~data.validation)
    groups = data.prompts[training]
    prompts = len(np.unique(groups))
    if prompts < 2:
        return [], "nothing"
    if prompts >= FEW_PROMPTS and data.weight[data.validation].any():
        return [_Round(training, np.flatnonzero(data.validation))], "validation pairs"
    folds = min(INNER_FOLDS, prompts)
    fold = grouped_folds(groups, folds, seed=0)
    judging = range(folds) if prompts < FEW_PROMPTS else range(1)
    rounds = [_Round(training[fold != number], training[fold == number]) for number in judging]
    return rounds, f"{folds} folds of training prompts" if len(rounds) > 1 else "a fifth of training prompts"


def _losses(data: PairData, coordinates: Basis, loss: str, rounds: Sequence[_Round]) -> Iterator[float]:
    """Yield the mean loss of the judging pairs for one strength after the other, from strong to weak."""
    weights = np.array([data.weight[judged].sum(dtype=np.float64) for _, judged in rounds])
    shares = weights / max(float(weights.sum()), 1e-30)
    paths = [_path(coordinates.z, data, learned, loss) for learned, _ in rounds]
    for points in zip(*paths, strict=True):
        losses = [
            _loss_of(coordinates.z, solution, data, judged, loss)
            for (_, solution), (_, judged) in zip(points, rounds, strict=True)
        ]
        yield float(shares @ losses)


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


def _loss_of(
    z: Float32[Tensor, "n p"],
    solution: Float64[np.ndarray, " solution"],
    data: PairData,
    places: Int64[np.ndarray, " taken"],
    loss: str,
) -> float:
    """Return the mean loss of a solution on some pairs."""
    pairs, weight = data.pairs[places], torch.as_tensor(data.weight[places])
    direction = torch.as_tensor(solution[:-1].astype(np.float32))
    chosen, rejected = (z[torch.as_tensor(pairs[:, side])] @ direction for side in (0, 1))
    bias = float(solution[-1])
    return float(pair_loss(chosen + bias, rejected + bias, weight, loss))
