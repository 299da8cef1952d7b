"""The parts of a score: what each direction and each response token adds to it.

A head scores `x`, the standardised projections, where 0 is the mean training response. What it gives to 0
is the intercept; what projection j adds to that is `slope_j * x_j`. For a linear head the slope is its weight
and the parts add up to the score, exactly. For a hidden layer it is the mean gradient on the line from 0 to x
(integrated gradients, Sundararajan et al. 2017, arXiv 1703.01365): one of several fair divisions, and only as
exact as the sum over `STEPS` points.

The mean over tokens of the projections is the projection of the mean, so each token has a share as well.
Directions that point alike are joined to groups, so that a person reads ten parts and not hundreds.

Axes: t (response tokens), p (projections: layers x poolings x directions).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from sparserm_cli.data.rendering.row_tokenizer import TokenizedExample
from sparserm_cli.errors import ResourceError
from sparserm_cli.models.head.heads import kind_of
from sparserm_cli.models.head.reward_head import RewardHead
from sparserm_cli.models.lm.language_model import LanguageModel
from sparserm_cli.models.lm.pooling import forest_of
from sparserm_cli.models.lm.residuals import Residuals, iter_residuals, pool
from sparserm_cli.statistics.cosine_clusters import cosine_clusters, mean_cosine

STEPS = 1024
"""Points on the line from the mean training response at which a hidden layer's gradient is taken."""

_SHOWN = 2  # directions that the name of a group shows

INTERCEPT, REMAINDER = "intercept", "remainder"
"""Names of the parts of a score that are no direction's."""

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


class Parts(NamedTuple):
    """The scores of some responses and their parts by projection.

    Fields:
        scores: of the responses.
        intercept: what the mean training response scores.
        values: what each projection adds to the intercept.
        method: `exact` for a linear head.
    """

    scores: Float64[np.ndarray, " n"]
    intercept: float
    values: Float64[np.ndarray, "n p"]
    method: Method

    @property
    def remainder(self) -> Float64[np.ndarray, " n"]:
        """What the parts miss of each score: rounding, or the error of the integral."""
        return self.scores - self.intercept - self.values.sum(axis=1)

    def by_group(self, groups: "Sequence[PartGroup]") -> tuple[dict[str, float], ...]:
        """Return for each response what each group adds to the intercept, by its name.

        `intercept` stands first, and what the integral misses, where there is one, last as `remainder`.
        """
        sums = np.stack([self.values[:, group.columns].sum(axis=1) for group in groups], axis=1)
        found = []
        for parts, missed in zip(sums, self.remainder, strict=True):
            row = {INTERCEPT: self.intercept}
            row |= {group.name: float(part) for group, part in zip(groups, parts, strict=True)}
            found.append(row if self.method == "exact" else {**row, REMAINDER: float(missed)})
        return tuple(found)


class PartGroup(NamedTuple):
    """Directions whose parts are added up.

    Fields:
        name: names of the strongest directions and the number of the others; no two groups share one.
        directions: names of all directions, the strongest first.
        columns: numbers of their projections.
        cosine: mean cosine between two of the directions; 1 for a single one.
    """

    name: str
    directions: tuple[str, ...]
    columns: Int64[np.ndarray, " columns"]
    cosine: float


def parts_of(head: RewardHead, x: Float32[Tensor, "n p"]) -> Parts:
    """Return the parts of the scores of standardised projections."""
    with torch.no_grad():
        scores, at_mean = head.score(x), head.score(torch.zeros_like(x[:1]))
    slopes = [_slope(head, row) for row in x] if len(x) else [np.zeros(x.shape[1])]
    values = x.cpu().double().numpy() * np.stack(slopes)
    intercept = float(at_mean[0]) if len(x) else 0.0
    return Parts(scores.cpu().double().numpy(), intercept, values, method_of(head))


def part_groups(
    head: RewardHead, selection: Mapping[str, Any], count: int, known: Mapping[str, str] | None = None
) -> tuple[PartGroup, ...]:
    """Return the directions of a head in groups of similar decoder rows, the strongest group first.

    A direction is as strong as half the difference in score between one standard deviation above its mean and
    one below. Directions that do not count, such as dropped ones, are in no group. The vectors of all layers
    lie in one residual stream, so that directions of several layers can share a group.

    Args:
        head: the head.
        selection: the record of how the directions were chosen.
        count: number of groups; 0 makes each direction a group of its own.
        known: name of a direction to what it stands for.

    """
    names, effect, known = direction_names(head, selection), np.abs(effects(head)), known or {}
    rows = np.concatenate([head.arrays.directions[layer][[at]] for layer, _, at in columns(head)])
    strength, place = dict.fromkeys(names, 0.0), dict[str, int]()
    for column, (name, value) in enumerate(zip(names, effect, strict=True)):
        strength[name] += float(value)
        place.setdefault(name, column)
    live = sorted((name for name in strength if strength[name] > 0), key=lambda name: -strength[name])
    if not live:
        return ()
    vectors = rows[[place[name] for name in live]]
    number = cosine_clusters(vectors, count or len(live))
    groups = []
    for group in range(number.max() + 1):
        members = [name for name, other in zip(live, number, strict=True) if other == group]
        taken = np.flatnonzero(np.isin(names, members))
        cosine = mean_cosine(vectors[number == group])
        groups.append(PartGroup(_group_name(members, known), tuple(members), taken, cosine))
    return tuple(sorted(groups, key=lambda group: -sum(strength[name] for name in group.directions)))


def _group_name(members: Sequence[str], known: Mapping[str, str]) -> str:
    """Return the strongest directions, with what they stand for, and the number of the others."""
    shown = [f"{name} ({known[name]})" if name in known else name for name in members[:_SHOWN]]
    more = len(members) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


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


def direction_names(head: RewardHead, selection: Mapping[str, Any]) -> list[str]:
    """Return the name of the direction of each projection: `14:1829` is latent 1829 of the SAE at layer 14.

    A direction that belongs to no latent, such as a random one, is called by its number: `14:#3`.

    Args:
        head: the head.
        selection: the record of how the directions were chosen, with layer to `latents`.

    """
    latents: Mapping[str, Sequence[int]] = selection.get("latents", {})
    names = []
    for layer, _, number in columns(head):
        of_layer = latents.get(str(layer), ())
        latent = of_layer[number] if number < len(of_layer) else -1
        names.append(f"{layer}:#{number}" if latent < 0 else f"{layer}:{latent}")
    return names


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
