"""Score the prompts and responses of a request, independently of the client's protocol.

A response that cannot be scored gets no score and a reason; it never refuses those beside it, unless the
server is strict.
"""

import asyncio
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any, NamedTuple

import numpy as np
from fastapi import Depends
from fastapi import Request as HTTPRequest

from sparserm_cli.alignment.server.batches import Kind
from sparserm_cli.alignment.server.gate import RefusedError
from sparserm_cli.alignment.server.schemas import Request
from sparserm_cli.alignment.server.service import Service
from sparserm_cli.config import ScoreLimits
from sparserm_cli.data.example import RowError
from sparserm_cli.data.rendering.row_tokenizer import TokenizedExample
from sparserm_cli.data.sources.strict_json import check_text
from sparserm_cli.errors import BadInputError, IncompatibleError, SparseRMError
from sparserm_cli.models.reward_model import Prompt, RewardModel, Rewards


class Unscorable(NamedTuple):
    """A response that cannot be scored."""

    reason: str


Pair = tuple[Prompt, str] | Unscorable
"""A prompt and a response."""


class Judged(NamedTuple):
    """The result of one response."""

    score: float | None = None
    """Its score, or the value that stands for a missing score."""
    ood: float | None = None
    """Its distance from the training responses; None if it was not computed."""
    tokens: dict[str, Any] | None = None
    """The rewards of its tokens, if they were requested."""
    parts: dict[str, Any] | None = None
    """The parts of its score, if they were requested."""
    reason: str | None = None
    """The reason why there is no score; None if there is one."""

    def details(self) -> dict[str, Any]:
        """Return the fields that every answer has besides the score."""
        return {"ood": self.ood, "tokens": self.tokens, "parts": self.parts, "reason": self.reason}


class Verdict(NamedTuple):
    """The results of all responses of a request."""

    members: list[Judged]
    tokens: int
    """The number of tokens of all prompts and responses that were scored."""
    guards: ScoreLimits
    """The normalisation and limits that were applied to the scores."""

    @property
    def scores(self) -> list[float | None]:
        """The scores without the other results."""
        return [member.score for member in self.members]

    def head(self, kind: str, service: Service) -> dict[str, Any]:
        """Return the fields besides the data of an answer in the form of OpenAI."""
        return {
            "id": f"{kind}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": service.name,
            "usage": {"prompt_tokens": self.tokens, "total_tokens": self.tokens},
            "guards": asdict(self.guards),
        }


def service_of(request: HTTPRequest) -> Service:
    """Return the service behind an application."""
    service: Service = request.app.state.service
    return service


Served = Annotated[Service, Depends(service_of)]


def cut_text(service: Service, text: str, prompt: str = "") -> Pair:
    """Return prompt and response of a conversation to which the chat template has been applied."""
    try:
        return service.texts.cut(text, prompt)
    except BadInputError as error:
        return Unscorable(_reason(error))


async def judge(
    service: Service, request: Request, pairs: Sequence[Pair], *, logistic: bool = False
) -> Verdict:
    """Tokenise prompts and responses and have them scored.

    Args:
        service: the service that scores.
        request: the options that apply to all pairs.
        pairs: prompts and responses.
        logistic: whether to return the logistic function of the scores.

    Raises:
        RefusedError: there are too many pairs, or the server is strict and one pair cannot be scored.

    """
    most, guards = service.config.max_inputs, request.guards(service.config)
    if len(pairs) > most:
        raise RefusedError(413, f"{len(pairs):,} inputs, where {most:,} are the most")
    readable = [_readable(pair) for pair in pairs]
    rows = await asyncio.to_thread(tokenized, service.model, readable, request.truncate_prompt_tokens)
    for number, row in enumerate(rows, start=1):
        if service.config.strict and isinstance(row, Unscorable):
            raise RefusedError(422, f"response {number}: {row.reason}")
    able = [row for row in rows if not isinstance(row, Unscorable)]
    computed = iter(
        await _computed(service, able, Kind(request.token_rewards, guards, request.parts), logistic=logistic)
    )
    members = [Judged(reason=row.reason) if isinstance(row, Unscorable) else next(computed) for row in rows]
    floor = service.config.unscorable
    members = [
        response if response.score is not None else response._replace(score=floor) for response in members
    ]
    return Verdict(members, sum(map(_size, able)), guards)


async def _computed(
    service: Service, rows: Sequence[TokenizedExample], kind: Kind, *, logistic: bool
) -> list[Judged]:
    """Compute the rewards of rows; rows with residuals that are not finite get no score.

    Raises:
        IncompatibleError: no row is finite, or the server is strict and one row is not.

    """
    outcomes = await _halved(service, rows, kind, logistic=logistic) if rows else []
    errors = [outcome for outcome in outcomes if isinstance(outcome, IncompatibleError)]
    if errors and (service.config.strict or len(errors) == len(outcomes)):
        raise errors[0]
    return [
        Judged(reason=_reason(outcome)) if isinstance(outcome, IncompatibleError) else outcome
        for outcome in outcomes
    ]


async def _halved(
    service: Service, rows: Sequence[TokenizedExample], kind: Kind, *, logistic: bool
) -> Sequence[Judged | IncompatibleError]:
    """Compute rows together; if that fails, compute them by halves until each failure belongs to one row."""
    try:
        rewards = await service.rewards(rows, kind)
    except IncompatibleError as error:
        if len(rows) == 1:
            return [error]
        halves = (rows[: len(rows) // 2], rows[len(rows) // 2 :])
        return [
            outcome for half in halves for outcome in await _halved(service, half, kind, logistic=logistic)
        ]
    return _scored(rows, rewards, kind.guards, logistic=logistic)


def tokenized(
    model: RewardModel, pairs: Sequence[Pair], most: int | None
) -> list[TokenizedExample | Unscorable]:
    """Return each pair as token ids, or the reason why it cannot be scored.

    Args:
        model: the reward model.
        pairs: prompts and responses.
        most: number of tokens to which longer prompts are cut; -1 is the model's limit, None cuts nothing.

    """
    usable = [pair for pair in pairs if not isinstance(pair, Unscorable)]
    try:
        rows = iter(model.tokenize(*zip(*usable, strict=True), any_length=True) if usable else [])
    except (BadInputError, IncompatibleError):  # one of the pairs is refused, so each is tried alone
        return [_tokenized_alone(model, pair, most) for pair in pairs]
    return [pair if isinstance(pair, Unscorable) else _checked(model, next(rows), most) for pair in pairs]


def _readable(pair: Pair) -> Pair:
    """Return a pair of texts that a tokenizer can read, or the reason why it cannot be read."""
    try:
        check_text(list(pair))
    except RowError as error:
        return Unscorable(error.reason)
    return pair


def _tokenized_alone(model: RewardModel, pair: Pair, most: int | None) -> TokenizedExample | Unscorable:
    if isinstance(pair, Unscorable):
        return pair
    try:
        (row,) = model.tokenize([pair[0]], [pair[1]], any_length=True)
    except (BadInputError, IncompatibleError) as error:
        return Unscorable(_reason(error))
    return _checked(model, row, most)


def _checked(model: RewardModel, row: TokenizedExample, most: int | None) -> TokenizedExample | Unscorable:
    """Shorten the prompt if that was requested, and check that the rest fits the model."""
    response = row.responses[0]
    if most is not None:
        limit = model.max_length if most < 0 else min(most, model.max_length)
        if len(response.response_ids) >= limit:
            size = len(response.response_ids)
            return Unscorable(f"expected a response of under {limit:,} tokens, found {size:,}")
        row = row._replace(responses=(model.template.rows.truncate_left(response, limit),))
    try:
        model.check_length(row)
    except BadInputError as error:
        return Unscorable(_reason(error))
    return row


def _scored(
    rows: Sequence[TokenizedExample], rewards: Rewards, guards: ScoreLimits, *, logistic: bool
) -> list[Judged]:
    """Return the results of responses whose rewards were computed."""
    scores = 0.5 * (1 + np.tanh(0.5 * rewards.scores)) if logistic else rewards.scores
    tokens, parts = _tokens(rows, rewards), _parts(rows, rewards)
    far = f"its ood is above the {guards.abstain:g} of abstain" if guards.abstain is not None else None
    return [
        Judged(float(score), float(ood), of_tokens, of_groups)
        if np.isfinite(score)
        else Judged(None, float(ood), of_tokens, of_groups, far)
        for score, ood, of_tokens, of_groups in zip(scores, rewards.ood, tokens, parts, strict=True)
    ]


def _parts(rows: Sequence[TokenizedExample], computed: Rewards) -> list[dict[str, Any] | None]:
    """Return the parts of each score; None where they were not requested or there is no score."""
    if not computed.parts:
        return [None] * len(rows)
    return [None if row is None else {"values": row, "method": computed.method} for row in computed.parts]


def _tokens(rows: Sequence[TokenizedExample], computed: Rewards) -> list[dict[str, Any] | None]:
    """Return the ids and rewards of each response's tokens."""
    if not computed.tokens:
        return [None] * len(rows)
    return [
        {
            "ids": row.responses[0].response_ids.tolist(),
            "rewards": None if rewards is None else rewards.tolist(),
            "method": computed.method,
        }
        for row, rewards in zip(rows, computed.tokens, strict=True)
    ]


def _size(row: TokenizedExample) -> int:
    return sum(len(response.prompt_ids) + len(response.response_ids) for response in row.responses)


def _reason(error: SparseRMError) -> str:
    return f"expected {error.expected}, found {error.found}; {error.hint}"
