"""The report's directions, with the text that excites them."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from sparserm_cli.analysis.contexts import Firing, halves, over_quantiles
from sparserm_cli.analysis.report.content.histogram import Histogram, histogram_of
from sparserm_cli.analysis.report.content.stored_scores import StoredScores
from sparserm_cli.analysis.report.content.texts import Excerpt, Stretch, Words
from sparserm_cli.models.head.attribution import effects
from sparserm_cli.models.head.reward_head import RewardHead
from sparserm_cli.store.artifacts.descriptions import Descriptions
from sparserm_cli.store.artifacts.directions import Directions
from sparserm_cli.store.artifacts.reward import RewardFiles
from sparserm_cli.store.artifacts.reward_checks import POOLINGS

SHOWN_DIRECTIONS, FEWEST_DIRECTIONS = 64, 16
"""Strongest directions per side that are shown; each layer has its share, and no fewer than the second."""
SAMPLED = 5
"""Contexts over the quantiles of a direction's activations that are shown."""


class DirectionRow(NamedTuple):
    """One direction and where it is found.

    Fields:
        layer: block from 0.
        number: number of the direction in its layer.
        preferred: whether it is of the preferred side.
        feature: latent; None for a random direction.
        statistic: statistic by which it was chosen.
        rate_chosen: share of the chosen side on which it fires.
        rate_rejected: the same share of the rejected side.
        q: q-value of McNemar's test.
        effect: half the difference in score between one standard deviation above the mean and one below, the
            weight of a linear head; None without a reward model.
        description: what `describe` says of it; None without that.
        histogram: number of tokens on which it fires, by activation; None where it was not looked for.
        strongest: where the latent fires most strongly.
        sampled: where it fires, over the quantiles of its activations.
        highest: responses furthest along the direction.
        lowest: responses furthest against it.
    """

    layer: int
    number: int
    preferred: bool
    feature: int | None
    statistic: float
    rate_chosen: float
    rate_rejected: float
    q: float
    effect: float | None
    description: Mapping[str, Any] | None = None
    histogram: Histogram | None = None
    strongest: tuple[Stretch, ...] = ()
    sampled: tuple[Stretch, ...] = ()
    highest: tuple[Excerpt, ...] = ()
    lowest: tuple[Excerpt, ...] = ()

    @property
    def anchor(self) -> str:
        """Name of its place on the page."""
        return f"direction-{self.layer}-{self.number}"

    @property
    def title(self) -> str:
        """Name of the direction, or its latent."""
        if self.description is not None and self.description["name"]:
            return str(self.description["name"])
        return "random direction" if self.feature is None else f"unnamed, latent {self.feature}"

    @property
    def side(self) -> str:
        """Side that it speaks for, in one word."""
        return "preferred" if self.preferred else "dispreferred"

    @property
    def score(self) -> Mapping[str, Any] | None:
        """How well the name tells contexts apart; None without a name that was tried."""
        made = self.description and (self.description["model"] or self.description["rule"])
        return made["score"] if made else None

    @property
    def sign(self) -> str:
        """What the head does with the direction, in words."""
        if self.effect is None:
            return "No reward model looks at it."
        verb = "raises" if self.effect > 0 else "lowers"
        agrees = (self.effect > 0) == self.preferred
        side = self.side
        why = (
            f"as its side, {side}, lets one expect"
            if agrees
            else f"although its side is {side}: the head corrects for other directions by it"
        )
        return (
            f"A projection one standard deviation higher {verb} the score by {abs(self.effect):.3f}, {why}."
        )


def shown_directions(directions: Directions) -> list[tuple[int, int]]:
    """Return layer and number of the directions that are shown, preferred ones first in each layer."""
    most = max(SHOWN_DIRECTIONS // max(len(directions.layers), 1), FEWEST_DIRECTIONS)
    return [
        (layer, int(number))
        for layer, selected in directions.layers.items()
        for side in (1, -1)
        for number in np.flatnonzero(selected.side == side)[:most]
    ]


def projection_of(reward: RewardFiles, layer: int, number: int) -> int:
    """Return which of the head's projections is that of a direction, pooled in the first way."""
    before = [other for other in reward.config.layers if other < layer]
    poolings = len(POOLINGS[reward.config.pool])
    return sum(len(reward.head.directions[other]) * poolings for other in before) + number


def direction_rows(
    directions: Directions,
    reward: RewardFiles | None,
    firing: Mapping[tuple[int, int], Firing],
    stored: StoredScores | None,
    words: Words | None,
    descriptions: Descriptions | None,
) -> Iterator[DirectionRow]:
    """Yield the directions that are shown.

    Args:
        directions: all of them.
        reward: the reward model that was made of them, if there is one.
        firing: layer and feature to where the latent fires, where that was looked for.
        stored: responses at the ends of each projection, if they were looked for.
        words: the texts; None shows no text.
        descriptions: what `describe` says of the directions; None without it.

    """
    effects_of = None if reward is None else effects(RewardHead.from_files(reward))
    for layer, number in shown_directions(directions):
        selected = directions.layers[layer]
        feature = int(selected.feature[number])
        texts: dict[str, Any] = {}
        at = None if reward is None else projection_of(reward, layer, number)
        places = firing.get((layer, feature))
        if words is not None and places is not None:
            most = max((context.value for context in places.strongest), default=1.0)
            sampled = over_quantiles(halves(places.firing), SAMPLED)
            texts["strongest"] = tuple(words.stretch(context, most) for context in places.strongest)
            texts["sampled"] = tuple(words.stretch(context, most) for context in sampled)
        if words is not None and stored is not None and at is not None:
            texts["highest"] = words.excerpts(stored.highest[:, at], stored.highest_at[:, at])
            texts["lowest"] = words.excerpts(stored.lowest[:, at], stored.lowest_at[:, at])
        yield DirectionRow(
            layer=layer,
            number=number,
            preferred=bool(selected.side[number] > 0),
            feature=None if feature < 0 else feature,
            statistic=float(selected.statistic[number]),
            rate_chosen=float(selected.rate_chosen[number]),
            rate_rejected=float(selected.rate_rejected[number]),
            q=float(selected.q[number]),
            effect=None if effects_of is None or at is None else float(effects_of[at]),
            description=None if descriptions is None else descriptions.layers[layer][number],
            histogram=None if places is None else histogram_of(places.histogram),
            **texts,
        )
