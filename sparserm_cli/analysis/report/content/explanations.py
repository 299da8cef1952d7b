"""Scores of stored pairs, divided among tokens and directions: for the most wrong and the most right pairs.

Reads: the response tokens of `activations.zarr`, so the language model is not needed. Memory: one unit.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Int64
from numpy import argsort, ndarray

from sparserm_cli.analysis.report.content.stored_scores import PairScores
from sparserm_cli.analysis.report.content.texts import Words
from sparserm_cli.models.head.attribution import attribution, columns
from sparserm_cli.models.head.reward_head import RewardHead
from sparserm_cli.models.token_text import printable
from sparserm_cli.store.capture.reader import ActivationsReader

SHOWN_TOKENS, SHOWN_PARTS = 160, 4
"""Tokens and directions of each response that are shown."""


class Shade(NamedTuple):
    """One token of a response.

    Fields:
        text: text of the token.
        share: what the token adds to the score, from -1 to 1 beside the largest share of the pair.
    """

    text: str
    share: float


class Part(NamedTuple):
    """What one direction adds to a score.

    Fields:
        layer: block from 0.
        number: number of the direction in its layer.
        adds: what its projection adds.
    """

    layer: int
    number: int
    adds: float


class ExplainedResponse(NamedTuple):
    """One response with the parts of its score.

    Fields:
        score: its score.
        tokens: its first tokens.
        more: whether it has more tokens.
        parts: the directions that add or take most.
    """

    score: float
    tokens: tuple[Shade, ...]
    more: bool
    parts: tuple[Part, ...]


class ExplainedPair(NamedTuple):
    """One stored pair with the parts of both scores.

    Fields:
        row: row of the input, from 1.
        margin: chosen score less rejected score.
        prompt: what both responses answer.
        chosen: the chosen response.
        rejected: the rejected response.
    """

    row: int
    margin: float
    prompt: str
    chosen: ExplainedResponse
    rejected: ExplainedResponse

    @property
    def anchor(self) -> str:
        """Name of its place on the page."""
        return f"pair-{self.row}"


def explained_pairs(
    capture: ActivationsReader,
    head: RewardHead,
    pairs: PairScores,
    chosen_pairs: Int64[ndarray, " shown"],
    words: Words,
) -> list[ExplainedPair]:
    """Divide the scores of some pairs among tokens and directions.

    Args:
        capture: the capture, with response tokens.
        head: the head of the reward model.
        pairs: all scored pairs.
        chosen_pairs: numbers of the pairs that are shown.
        words: texts of their responses.

    Raises:
        UsageError: the capture keeps pooled vectors only.
        CorruptStoreError: a chunk is damaged; names the unit.

    """
    rows = []
    for number in chosen_pairs.tolist():
        responses = int(pairs.chosen[number]), int(pairs.rejected[number])
        attributions = [
            attribution(
                head, {layer: torch.from_numpy(capture.tokens(layer, response)) for layer in head.layers}
            )
            for response in responses
        ]
        most = max(float(abs(parts.tokens).max(initial=0.0)) for parts in attributions) or 1.0
        explained = []
        for response, parts in zip(responses, attributions, strict=True):
            texts = words.token_texts(response, SHOWN_TOKENS)
            tokens = tuple(
                Shade(printable(text), float(share) / most)
                for text, share in zip(texts, parts.tokens, strict=False)
            )
            more = len(parts.tokens) > SHOWN_TOKENS
            shares = _largest(head, parts.directions)
            explained.append(ExplainedResponse(parts.score, tokens, more, tuple(shares)))
        row, margin = int(pairs.row[number]), float(pairs.margin[number])
        rows.append(ExplainedPair(row, margin, words.prompt(responses[0]), explained[0], explained[1]))
    return rows


def _largest(head: RewardHead, parts: ndarray) -> Sequence[Part]:
    """Return the largest parts, the largest first."""
    places = list(columns(head))
    order = argsort(-abs(parts), kind="stable")[:SHOWN_PARTS]
    return [Part(places[at][0], places[at][2], float(parts[at])) for at in order.tolist()]
