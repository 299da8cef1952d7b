"""Explain why one response got its score, by named directions and by tokens.

Reads: `directions/` beside the reward model for rates and names, if it is still there. Memory: the residual
stream of one response.
"""

from collections.abc import Iterator
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np

from sparserm_cli.config.shared import PART_GROUPS
from sparserm_cli.data.rendering.row_tokenizer import TokenizedExample
from sparserm_cli.models.checkpoints.resolve import load_tokenizer
from sparserm_cli.models.head.attribution import (
    Attribution,
    Method,
    attributions,
    columns,
    effects,
    part_groups,
)
from sparserm_cli.models.head.reward_head import RewardHead
from sparserm_cli.models.lm.language_model import LanguageModel
from sparserm_cli.models.token_text import token_texts
from sparserm_cli.store.artifacts.descriptions import Names, names_of
from sparserm_cli.store.artifacts.directions import JSON, TYPE, Directions, directions_path, read_directions
from sparserm_cli.store.artifacts.reward import RewardConfig
from sparserm_cli.store.io.storage import storage_of


class DirectionShare(NamedTuple):
    """One projection's part in a score.

    Fields:
        layer: block from 0.
        pool: mean or last.
        feature: latent of the SAE; None for a random direction.
        side: 1 preferred, -1 dispreferred.
        rate_chosen: share of the chosen tokens or responses on which the latent fires; None if unknown.
        rate_rejected: the same share for rejected tokens or responses.
        projection: standard deviations above the mean training response.
        contribution: what the projection adds to the score.
        name: name of the direction that `sparserm describe` made and tested; None without one.
    """

    layer: int
    pool: str
    feature: int | None
    side: int
    rate_chosen: float | None
    rate_rejected: float | None
    projection: float
    contribution: float
    name: str | None = None


class TokenShare(NamedTuple):
    """One response token's part in a score.

    Fields:
        text: text of the token; "" if its character belongs to the next token.
        id: id of the token in the tokenizer's vocabulary.
        contribution: what the token adds to the score, including its share of the intercept.
    """

    text: str
    id: int
    contribution: float


class GroupShare(NamedTuple):
    """The part in a score of several directions whose decoder rows are alike.

    Fields:
        name: names of the strongest directions and the number of the others.
        directions: names of all of them, the strongest first.
        cosine: mean cosine between two of the directions; 1 for a single one.
        contribution: what they add to the score together.
    """

    name: str
    directions: tuple[str, ...]
    cosine: float
    contribution: float


class Explanation(NamedTuple):
    """Why one response got its score.

    Fields:
        row: row of the response in the file, from 1; 1 for a response given as text.
        response: number of the response in its row, from 1.
        prompt: the prompt as the model sees it.
        text: text of the response.
        score: reward of the response.
        intercept: score of the mean training response, which the directions' parts are added to.
        method: `exact`, or `integrated gradients`, which are approximate.
        error: difference between the score and the sum of its parts.
        pool: pooling of the head: mean, last or both.
        directions: the parts of all projections, the largest first.
        tokens: the parts of all tokens, in order; they add up to the score.
        groups: the parts of groups of similar directions, the strongest group first; they add up to those of
            all directions.
    """

    row: int
    response: int
    prompt: str
    text: str
    score: float
    intercept: float
    method: Method
    error: float
    pool: str
    directions: tuple[DirectionShare, ...]
    tokens: tuple[TokenShare, ...]
    groups: tuple[GroupShare, ...] = ()


class Explainer:
    """Divides scores of a reward model among directions and tokens.

    Args:
        path: folder of the reward model.
        config: configuration of the reward model.
        head: head of the reward model.
        lm: lower blocks of the language model.
        groups: number of groups of directions; 0 makes each direction a group of its own.

    Raises:
        CorruptStoreError: the directions beside the reward model, or their descriptions, are damaged.

    """

    def __init__(
        self,
        path: PurePath,
        config: RewardConfig,
        head: RewardHead,
        lm: LanguageModel,
        groups: int = PART_GROUPS,
    ) -> None:
        self._config, self._head, self._lm = config, head, lm
        self._known = _rates(path.parent, config)
        self._names = names_of(path.parent, config.lineage.parents.get(TYPE))
        named = {f"{layer}:{latent}": name for (layer, latent), name in self._names.items()}
        self._groups = part_groups(head, config.selection, groups, named)
        self._tokenizer = load_tokenizer(lm.identity)

    def explain(self, row: TokenizedExample, number: int = 1) -> Explanation:
        """Divide the score of a row's only response.

        Args:
            row: tokenised row with one response, which has tokens.
            number: number of the response in its row of the data, from 1.

        Raises:
            ResourceError: memory does not suffice.

        """
        (parts,) = attributions(self._lm, self._head, [row])
        return Explanation(
            row.example.row,
            number,
            row.prompt_text,
            row.example.responses[0],
            parts.score,
            parts.intercept,
            parts.method,
            parts.error,
            self._config.pool,
            tuple(sorted(self._directions(parts), key=lambda share: -abs(share.contribution))),
            tuple(self._tokens(row, parts)),
            tuple(
                GroupShare(
                    group.name, group.directions, group.cosine, float(parts.directions[group.columns].sum())
                )
                for group in self._groups
            ),
        )

    def _directions(self, attribution: Attribution) -> Iterator[DirectionShare]:
        """Yield the part of each projection with what is known of its direction."""
        parts = zip(
            _named(self._head, self._config, self._known, self._names),
            attribution.projections,
            attribution.directions,
            strict=True,
        )
        for (layer, pooling, _, feature, side, chosen, rejected, name), projection, part in parts:
            yield DirectionShare(
                layer,
                pooling,
                feature,
                side,
                chosen,
                rejected,
                float(projection),
                float(part),
                name,
            )

    def _tokens(self, row: TokenizedExample, attribution: Attribution) -> Iterator[TokenShare]:
        """Yield the part of each token with its text."""
        taken = row.responses[0]
        texts = token_texts(self._tokenizer, taken.response_ids, taken.prompt_ids)
        for text, number, part in zip(texts, taken.response_ids, attribution.tokens, strict=True):
            yield TokenShare(text, int(number), float(part))


class NamedProjection(NamedTuple):
    """One projection that the head uses, with the fields of `DirectionShare` and the direction's number."""

    layer: int
    pool: str
    direction: int
    feature: int | None
    side: int
    rate_chosen: float | None
    rate_rejected: float | None
    name: str | None


def direction_rows(path: PurePath, config: RewardConfig, head: RewardHead) -> list[dict[str, Any]]:
    """Return what is known about each projection of a head, in the head's order.

    Args:
        path: folder of the reward model.
        config: configuration of the reward model.
        head: head of the reward model.

    Returns:
        for each projection the fields of `NamedProjection`, `mean` and `std` over the training responses, and
        `effect`: half the difference in score between one standard deviation above the mean and one below,
        the others at their means. It is the weight of a linear head.

    Raises:
        CorruptStoreError: the directions beside the reward model are damaged.

    """
    names = names_of(path.parent, config.lineage.parents.get(TYPE))
    named = _named(head, config, _rates(path.parent, config), names)
    numbers = zip(head.arrays.mean.tolist(), head.arrays.std.tolist(), effects(head).tolist(), strict=True)
    return [
        {**projection._asdict(), "mean": mean, "std": std, "effect": effect}
        for projection, (mean, std, effect) in zip(named, numbers, strict=True)
    ]


def _named(
    head: RewardHead, config: RewardConfig, known: Directions | None, names: Names
) -> Iterator[NamedProjection]:
    """Yield what is known about each projection of a head."""
    latents, sides = config.selection.get("latents", {}), config.selection.get("sides", {})
    for layer, pooling, at in columns(head):
        feature = latents[str(layer)][at] if str(layer) in latents else -1
        rates = known.layers[layer] if known is not None else None
        yield NamedProjection(
            layer,
            pooling,
            at,
            None if feature < 0 else int(feature),
            int(sides[str(layer)][at]) if str(layer) in sides else 0,
            None if rates is None else _number(rates.rate_chosen[at]),
            None if rates is None else _number(rates.rate_rejected[at]),
            names.get((layer, feature)),
        )


def _number(value: float) -> float | None:
    """Return the number, or None for NaN."""
    return None if np.isnan(value) else float(value)


def _rates(run: PurePath, config: RewardConfig) -> Directions | None:
    """Return the directions beside the reward model, if it was fitted on them; else None.

    Raises:
        CorruptStoreError: the directions are damaged.

    """
    if not storage_of(directions_path(run)).is_there(JSON):
        return None
    there = read_directions(run)
    recorded = config.lineage.parents.get(there.lineage.type)
    return there if recorded is not None and recorded.digest == there.lineage.digest else None
