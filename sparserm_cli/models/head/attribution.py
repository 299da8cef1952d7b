"""The parts of a score: what each direction and each response token adds to it.

A head scores `x`, the standardised projections, where 0 is the mean training response. What it gives to 0
is the intercept; what projection j adds to that is `slope_j * x_j`. For a linear head the slope is its weight
and the parts add up to the score, exactly. For a hidden layer it is the mean gradient on the line from 0 to x
(integrated gradients, Sundararajan et al. 2017, arXiv 1703.01365): one of several fair divisions, and only as
exact as the sum over `STEPS` points.

The mean over tokens of the projections is the projection of the mean, so each token has a share as well.

Axes: t (response tokens), p (projections: layers x poolings x directions).
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Float64
from torch import Tensor

from sparserm_cli.data.rendering.row_tokenizer import TokenizedExample
from sparserm_cli.errors import ResourceError
from sparserm_cli.models.head.heads import kind_of
from sparserm_cli.models.head.reward_head import RewardHead
from sparserm_cli.models.lm.language_model import LanguageModel
from sparserm_cli.models.lm.pooling import forest_of
from sparserm_cli.models.lm.residuals import Residuals, iter_residuals, pool

STEPS = 1024
"""Points on the line from the mean training response at which a hidden layer's gradient is taken."""

Method = Literal["exact", "integrated gradients"]


class Attribution(NamedTuple):
    """A score and its parts.

    Fields:
        score: of the response.
        intercept: what the mean training response scores.
        projections: the response's standardised projections.
        directions: what each projection adds to the intercept.
        tokens: what each token adds to the score, the intercept shared out as well.
        method: `exact` for a linear head.
    """

    score: float
    intercept: float
    projections: Float64[np.ndarray, " p"]
    directions: Float64[np.ndarray, " p"]
    tokens: Float64[np.ndarray, " t"]
    method: Method

    @property
    def error(self) -> float:
        """Difference of the score from the sum of its parts: rounding, or the error of the integral."""
        return self.score - self.intercept - float(self.directions.sum())


def attributions(
    lm: LanguageModel,
    head: RewardHead,
    rows: Sequence[TokenizedExample],
    *,
    batch_tokens: int | None = None,
    deterministic: bool = False,
) -> list[Attribution]:
    """Return the parts of the score of each response of some rows, in their order.

    Args:
        lm: the loaded model.
        head: what scores.
        rows: tokenised rows; none may have a response without tokens.
        batch_tokens: most tokens in one forward pass; None chooses by the machine.
        deterministic: compute each response alone, so that its parts are equal to the bit in any company.

    Raises:
        ResourceError: the memory does not suffice for a response.

    """
    forest = forest_of(rows)
    facts: dict[str, Any] = {}
    # Residuals are many; of each response only its parts are kept.
    by_response = {
        (tree, response): attribution(head, residuals)
        for tree, response, residuals in iter_residuals(
            lm, forest.trees, batch_tokens=batch_tokens, deterministic=deterministic, facts=facts
        )
    }
    if facts["rejected"]:
        reason = facts["rejected"][0][2]
        raise ResourceError("a response", "memory for it", reason, "shorten it")
    return [by_response[int(tree), int(response)] for tree, response in forest.place]


def attribution(head: RewardHead, residuals: Residuals) -> Attribution:
    """Return the parts of one response's score, given the residual stream at its tokens."""
    pooled: dict[int, Any] = {}
    for layer, tokens in residuals.items():
        last, mean = (vector.numpy()[None] for vector in pool(tokens))
        pooled[layer] = {"last": last, "mean": mean}
    x = head.standardised(pooled)
    score, intercept = (float(head.score(at)[0]) for at in (x, torch.zeros_like(x)))
    slope = _slope(head, x[0])
    projections = x[0].cpu().double().numpy()
    shares = _token_shares(head, residuals) @ slope
    if "mean" in head.poolings:
        shares += intercept / len(shares)
    else:
        shares[-1] += intercept
    return Attribution(score, intercept, projections, slope * projections, shares, method_of(head))


def columns(head: RewardHead) -> Iterator[tuple[int, str, int]]:
    """Yield layer, pooling and number of the direction of each projection, in the head's order."""
    places = len(head.layers) * len(head.poolings)
    for layer in head.layers:
        directions = head.arrays.directions.get(layer)
        count = len(head.arrays.mean) // places if directions is None else len(directions)
        for pooling in head.poolings:
            for number in range(count):
                yield layer, pooling, number


def method_of(head: RewardHead) -> Method:
    """Return the method by which the parts of this head's scores are computed."""
    return "exact" if kind_of(head.arrays.weights).exact else "integrated gradients"


def effects(head: RewardHead) -> Float64[np.ndarray, " p"]:
    """Return half the difference that each projection makes from one standard deviation below to one above.

    The others stay at their means. For a linear head this is the weight.
    """
    steps = torch.eye(len(head.arrays.mean), dtype=torch.float32, device=head.device)
    effect = (head.score(steps) - head.score(-steps)) / 2
    return effect.cpu().double().numpy()


def _slope(head: RewardHead, x: Float32[Tensor, " p"]) -> Float64[np.ndarray, " p"]:
    """Return the mean gradient of the score on the line from the mean training response to `x`."""
    kind = kind_of(head.arrays.weights)
    if kind.exact:
        return head.arrays.weights[kind.output].astype(np.float64)
    steps = (torch.arange(STEPS, device=x.device, dtype=x.dtype) + 0.5) / STEPS
    path = (steps[:, None] * x).requires_grad_()
    (gradient,) = torch.autograd.grad(head.score(path).sum(), path)
    return gradient.double().mean(dim=0).cpu().numpy()


def _token_shares(head: RewardHead, residuals: Residuals) -> Float64[np.ndarray, "t p"]:
    """Return each token's share of each standardised projection; over the tokens they add up to it."""
    pooled: dict[int, Any] = {}
    for layer, tokens in residuals.items():
        vectors = tokens.float().cpu().numpy()
        pooled[layer] = {"last": vectors, "mean": vectors}
    shares = head.standardised(pooled).cpu().double().numpy()
    is_last = np.array([pooling == "last" for _, pooling, _ in columns(head)])
    shares[:-1, is_last] = 0.0
    shares[:, ~is_last] /= len(shares)
    return shares
