"""The classify protocol of vLLM, to which verl posts, and its score protocol."""

from typing import Any

from fastapi import APIRouter

from sparserm_cli.alignment.server.bodies import StrictRoute
from sparserm_cli.alignment.server.gate import RefusedError
from sparserm_cli.alignment.server.routes.conversations import ConversationRequest, pairs_of
from sparserm_cli.alignment.server.schemas import REFUSALS, Activated, Answer, Member, Texts
from sparserm_cli.alignment.server.scoring import Pair, Served, judge

router = APIRouter(route_class=StrictRoute)


class ClassifyRequest(ConversationRequest, Activated):
    """The request of `/classify`: conversations as messages or as already templated text."""


class ScoreRequest(Activated):
    """The request of `/score`: separate prompts and responses; a single prompt applies to all responses."""

    queries: Texts | None = None
    """Prompts, each the words of one user turn. The field may also be called `text_1` or `data_1`."""
    text_1: Texts | None = None
    data_1: Texts | None = None
    documents: Texts | None = None
    """Responses. The field may also be called `items`, `text_2` or `data_2`."""
    items: Texts | None = None
    text_2: Texts | None = None
    data_2: Texts | None = None


class Classified(Member):
    """The only class of one conversation."""

    label: str = "reward"
    probs: list[float | None]
    """A list with only the score; it is a probability only if an activation was requested."""
    num_classes: int = 1


class ClassifyAnswer(Answer):
    """The answer of `/classify`."""

    data: list[Classified]


class Scored(Member):
    """The score of one response."""

    object: str = "score"
    score: float | None


class ScoreAnswer(Answer):
    """The answer of `/score`."""

    data: list[Scored]


@router.post("/classify", response_model=ClassifyAnswer, responses=REFUSALS)
@router.post("/v1/classify", response_model=ClassifyAnswer, responses=REFUSALS)
async def classify(request: ClassifyRequest, service: Served) -> dict[str, Any]:
    """Score conversations."""
    verdict = await judge(service, request, pairs_of(service, request), logistic=request.logistic)
    data = [
        {"index": index, "probs": [response.score], **response.details()}
        for index, response in enumerate(verdict.members)
    ]
    return {**verdict.head("classify", service), "data": data}


@router.post("/score", response_model=ScoreAnswer, responses=REFUSALS)
@router.post("/v1/score", response_model=ScoreAnswer, responses=REFUSALS)
async def score(request: ScoreRequest, service: Served) -> dict[str, Any]:
    """Score responses to prompts; a query is a prompt and a document is a response."""
    verdict = await judge(service, request, _pairs(request), logistic=request.logistic)
    data = [
        {"index": index, "score": response.score, **response.details()}
        for index, response in enumerate(verdict.members)
    ]
    return {**verdict.head("score", service), "data": data}


def _pairs(request: ScoreRequest) -> list[Pair]:
    """Return prompts and responses of a score request; a single prompt applies to all responses.

    Raises:
        RefusedError: prompts or responses are missing or given twice, or their numbers do not match.

    """
    sides = []
    for names in (("queries", "text_1", "data_1"), ("documents", "items", "text_2", "data_2")):
        given = [value for name in names if (value := getattr(request, name)) is not None]
        if len(given) != 1:
            raise RefusedError(422, f"exactly one of {', '.join(names)} is needed")
        sides.append([given[0]] if isinstance(given[0], str) else given[0])
    queries, documents = sides
    if len(queries) == 1:
        queries *= len(documents)
    if len(queries) != len(documents):
        raise RefusedError(422, f"{len(queries)} prompts for {len(documents)} responses")
    return list(zip(queries, documents, strict=True))
