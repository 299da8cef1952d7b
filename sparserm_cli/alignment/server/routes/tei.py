"""Text Embeddings Inference's predict and rerank: answers are bare lists, best first where they are ranked.

As there, scores go through the logistic function unless `raw_scores` is asked for.
"""

from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter
from pydantic import BaseModel, Field, model_validator

from sparserm_cli.alignment.server.bodies import StrictRoute
from sparserm_cli.alignment.server.schemas import REFUSALS, Request, TextList
from sparserm_cli.alignment.server.scoring import Judged, Pair, Served, cut_text, judge
from sparserm_cli.alignment.server.service import Service

router = APIRouter(route_class=StrictRoute)
Sequence = Annotated[TextList, Field(min_length=1, max_length=2)]


class _Request(Request):
    """The fields that both requests have."""

    raw_scores: bool = False
    """Whether to return scores instead of their logistic function."""
    truncate: bool | None = None
    """Whether to drop the oldest tokens of a prompt that is too long."""
    truncation_direction: Literal["left", "Left", "right", "Right"] | None = None
    """The side on which tokens are dropped: only `left`, because the end of a response decides its score."""

    @model_validator(mode="after")
    def _left_alone(self) -> Self:
        if not self.truncate:
            return self
        if self.truncation_direction not in ("left", "Left"):
            raise ValueError('truncate is known with "truncation_direction": "left" alone')
        if self.truncate_prompt_tokens is None:
            self.truncate_prompt_tokens = -1
        return self


class PredictRequest(_Request):
    """The request of `/predict`: one text, one pair of prompt and response, or a list of lists of either."""

    inputs: str | Sequence | Annotated[list[Sequence], Field(min_length=1, fail_fast=True)]
    """A single text is a conversation to which the chat template has been applied."""


class RerankRequest(_Request):
    """The request of `/rerank`: responses to one prompt."""

    query: str
    """The prompt: the words of one user turn."""
    texts: Annotated[TextList, Field(min_length=1)]
    """The responses to the prompt."""
    return_text: bool = False
    """Whether to repeat each response that has a score in the answer."""


class Prediction(BaseModel):
    """The only class of one input."""

    score: float | None
    label: str = "reward"
    reason: str | None = None
    """Why there is no score."""


class Rank(BaseModel):
    """One response among those to its prompt."""

    index: int
    text: str | None = None
    score: float | None
    reason: str | None = None
    """Why there is no score."""


@router.post(
    "/predict",
    response_model=list[Prediction] | list[list[Prediction]],
    responses=REFUSALS,
)
async def predict(request: PredictRequest, service: Served) -> list[Any]:
    """Score one input, or several."""
    inputs = request.inputs
    alone = isinstance(inputs, str) or isinstance(inputs[0], str)
    sequences: list[Any] = [inputs] if alone else list(inputs)
    pairs = [_pair(service, [sequence] if isinstance(sequence, str) else sequence) for sequence in sequences]
    verdict = await judge(service, request, pairs, logistic=not request.raw_scores)
    predictions = [[Prediction(score=response.score, reason=response.reason)] for response in verdict.members]
    return list(predictions[0] if alone else predictions)


@router.post("/rerank", response_model=list[Rank], responses=REFUSALS)
async def rerank(request: RerankRequest, service: Served) -> list[Rank]:
    """Rank responses to a prompt, best first; those without a score come last."""
    pairs: list[Pair] = [(request.query, text) for text in request.texts]
    verdict = await judge(service, request, pairs, logistic=not request.raw_scores)

    def place(index: int) -> tuple[bool, float, int]:
        member: Judged = verdict.members[index]
        return member.reason is not None, -(member.score or 0.0), index

    return [
        Rank(
            index=index,
            text=request.texts[index] if request.return_text and not verdict.members[index].reason else None,
            score=verdict.members[index].score,
            reason=verdict.members[index].reason,
        )
        for index in sorted(range(len(pairs)), key=place)
    ]


def _pair(service: Service, sequence: list[str]) -> Pair:
    return cut_text(service, sequence[0]) if len(sequence) == 1 else (sequence[0], sequence[1])
