"""The embeddings protocol of SGLang, which its reward models use; verl uses it too."""

from typing import Any, Literal

from fastapi import APIRouter

from sparserm_cli.alignment.server.bodies import StrictRoute
from sparserm_cli.alignment.server.routes.conversations import ConversationRequest, pairs_of
from sparserm_cli.alignment.server.schemas import REFUSALS, Answer, Member
from sparserm_cli.alignment.server.scoring import Served, judge

router = APIRouter(route_class=StrictRoute)


class Embedded(Member):
    """The embedding of one conversation, which has one number."""

    object: Literal["embedding"] = "embedding"
    embedding: list[float | None]
    """A list with the score as its only element."""


class EmbeddingsAnswer(Answer):
    """The answer of `/v1/embeddings`."""

    data: list[Embedded]


@router.post("/v1/embeddings", response_model=EmbeddingsAnswer, responses=REFUSALS)
async def embeddings(request: ConversationRequest, service: Served) -> dict[str, Any]:
    """Score conversations."""
    verdict = await judge(service, request, pairs_of(service, request))
    data = [
        {"index": index, "embedding": [response.score], **response.details()}
        for index, response in enumerate(verdict.members)
    ]
    return {**verdict.head("embeddings", service), "data": data}
