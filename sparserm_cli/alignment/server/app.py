"""The routes of the server, as vLLM, SGLang and OpenRLHF name them, behind the gate."""

import asyncio
import json
import time
import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from sparserm_cli import __version__
from sparserm_cli.alignment.server import schemas as shapes
from sparserm_cli.alignment.server.batches import FullError
from sparserm_cli.alignment.server.bodies import StrictRoute
from sparserm_cli.alignment.server.gate import Gate, RefusedError
from sparserm_cli.alignment.server.metrics import CONTENT_TYPE
from sparserm_cli.alignment.server.service import Service
from sparserm_cli.data.chat_template import EncodedExample
from sparserm_cli.data.example import Message
from sparserm_cli.errors import BadInputError, IncompatibleError, SparseRMError
from sparserm_cli.models.reward_model import Prompt, Rewards

REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": shapes.Refusal, "description": text} for status, text in shapes.ENDPOINT.items()
}


def make_app(service: Service, key: str) -> Gate:
    """Return the ASGI application.

    Args:
        service: what does the work; it may be loading still.
        key: what clients must send as bearer token; "" lets everybody in.

    """
    app = FastAPI(title="sparserm", version=__version__, docs_url=None, redoc_url=None)
    app.state.service = service
    app.router.route_class = StrictRoute
    _handle_errors(app)
    _looks(app, service)
    _scores(app, service)
    paths = [str(getattr(route, "path", "")) for route in app.routes]
    return Gate(app, service, key, paths)


def _looks(app: FastAPI, service: Service) -> None:
    """Add the routes that tell about the server."""

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Tell that the process lives."""
        return {"status": "ok"}

    @app.get("/ready", responses={503: {"model": shapes.Refusal}})
    async def ready() -> dict[str, Any]:
        """Tell whether scores can be had: the model is loaded and scored its probe as at the fit."""
        _require_open(service)
        return {"status": "ready", "probe": service.probe}

    @app.get("/v1/models", responses={503: {"model": shapes.Refusal}})
    async def models() -> dict[str, Any]:
        """List the one model."""
        _require_open(service)
        one = {"id": service.name, "object": "model", "created": 0, "owned_by": "sparserm"}
        return {"object": "list", "data": [{**one, "max_model_len": service.model.max_length}]}

    @app.get("/info", responses={503: {"model": shapes.Refusal}})
    async def info() -> dict[str, Any]:
        """Tell what the reward model is made of, and what is done to its scores."""
        _require_open(service)
        return service.info()

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Give Prometheus its numbers."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)


def _scores(app: FastAPI, service: Service) -> None:
    """Add the routes that score."""

    @app.post("/classify", response_model=shapes.ClassifyAnswer, responses=REFUSALS)
    @app.post("/v1/classify", response_model=shapes.ClassifyAnswer, responses=REFUSALS)
    async def classify(asked: shapes.ClassifyRequest) -> dict[str, Any]:
        """Score conversations: vLLM's classify, which verl posts to."""
        conversations = _conversations(service, asked)
        rows, found = await _judge(service, conversations, by_token=asked.token_rewards)
        scores = _logistic(found.scores) if asked.use_activation else found.scores
        probs = [[score] for score in _plain(scores)]
        return {**_head("classify", service, rows), "data": _data("probs", probs, rows, found)}

    @app.post("/v1/embeddings", response_model=shapes.EmbeddingsAnswer, responses=REFUSALS)
    async def embeddings(asked: shapes.ConversationRequest) -> dict[str, Any]:
        """Score conversations: SGLang's way to ask a reward model, which verl posts too."""
        rows, found = await _judge(service, _conversations(service, asked), by_token=asked.token_rewards)
        numbers = [[score] for score in _plain(found.scores)]
        return {**_head("embeddings", service, rows), "data": _data("embedding", numbers, rows, found)}

    @app.post("/score", response_model=shapes.ScoreAnswer, responses=REFUSALS)
    @app.post("/v1/score", response_model=shapes.ScoreAnswer, responses=REFUSALS)
    async def score(asked: shapes.ScoreRequest) -> dict[str, Any]:
        """Score responses to prompts: vLLM's score, a query being a prompt and a document a response."""
        rows, found = await _judge(service, _pairs(asked), by_token=asked.token_rewards)
        data = _data("score", _plain(found.scores), rows, found)
        return {**_head("score", service, rows), "data": data}

    @app.post("/get_reward", response_model=shapes.RewardAnswer, responses=REFUSALS)
    async def get_reward(asked: shapes.RewardRequest) -> dict[str, Any]:
        """Score rollouts: OpenRLHF's remote reward, empty lists included."""
        prompts = asked.prompts or [""] * len(asked.query)
        if len(prompts) != len(asked.query):
            raise RefusedError(422, f"{len(prompts)} prompts for {len(asked.query)} queries")
        cuts = [service.texts.cut(*one) for one in zip(asked.query, prompts, strict=True)]
        rows, found = await _judge(service, cuts, by_token=asked.token_rewards)
        answer = {"rewards": _plain(found.scores), "scores": _plain(found.scores)}
        tokens = _tokens(rows, found) if asked.token_rewards else None
        return {**answer, "extra_logs": {"ood": found.ood.tolist()}, "tokens": tokens}


async def _judge(
    service: Service, conversations: Sequence[tuple[Prompt, str]], *, by_token: bool = False
) -> tuple[list[EncodedExample], Rewards]:
    """Tokenise prompts and responses and have them scored.

    Raises:
        RefusedError: there are too many, or the template refuses one.
        BadInputError: a response has no token or is longer than the model takes.

    """
    most = service.config.max_inputs
    if len(conversations) > most:
        raise RefusedError(413, f"{len(conversations):,} inputs, where {most:,} are the most")
    if not conversations:
        return [], Rewards(np.empty(0, np.float32), np.empty(0, np.float32))
    prompts, responses = zip(*conversations, strict=True)
    try:
        rows = await asyncio.to_thread(service.model.encode, prompts, responses)
    except IncompatibleError as error:
        raise RefusedError(422, str(error)) from error
    return rows, await service.rewards(rows, by_token=by_token)


def _conversations(service: Service, asked: shapes.ConversationRequest) -> list[tuple[Prompt, str]]:
    """Return prompts and responses of a request with conversations.

    Raises:
        RefusedError: neither text nor messages, or both; or the last turn is not the assistant's.
        BadInputError: a text has no response.

    """
    if (asked.input is None) == (asked.messages is None):
        raise RefusedError(422, "either input or messages is needed")
    if asked.input is not None:
        texts = [asked.input] if isinstance(asked.input, str) else asked.input
        return [service.texts.cut(text) for text in texts]
    found: list[tuple[Prompt, str]] = []
    for one in _listed(asked.messages):
        turns = tuple(Message(turn.role, turn.content) for turn in one)
        if turns[-1].role != "assistant":
            raise RefusedError(422, "a conversation must end with the assistant's turn")
        found.append((turns[:-1], turns[-1].content))
    return found


def _listed(messages: Any) -> Sequence[Sequence[shapes.Turn]]:
    """Return a list of conversations, of which one may have been sent alone."""
    return [messages] if messages and isinstance(messages[0], shapes.Turn) else messages


def _pairs(asked: shapes.ScoreRequest) -> list[tuple[Prompt, str]]:
    """Return prompts and responses of a score request, one prompt standing for all responses.

    Raises:
        RefusedError: one of both is missing or there twice, or their numbers do not fit.

    """
    sides = []
    for names in (("queries", "text_1", "data_1"), ("documents", "items", "text_2", "data_2")):
        given = [value for name in names if (value := getattr(asked, name)) is not None]
        if len(given) != 1:
            raise RefusedError(422, f"exactly one of {', '.join(names)} is needed")
        sides.append([given[0]] if isinstance(given[0], str) else given[0])
    queries, documents = sides
    if len(queries) == 1:
        queries *= len(documents)
    if len(queries) != len(documents):
        raise RefusedError(422, f"{len(queries)} prompts for {len(documents)} responses")
    return list(zip(queries, documents, strict=True))


def _data(
    name: str, values: Sequence[Any], rows: Sequence[EncodedExample], found: Rewards
) -> list[dict[str, Any]]:
    """Return what vLLM's and SGLang's answers say of each response, its score under `name`."""
    parts = zip(values, found.ood.tolist(), _tokens(rows, found), strict=True)
    return [
        {"index": index, name: value, "ood": ood, "tokens": tokens}
        for index, (value, ood, tokens) in enumerate(parts)
    ]


def _tokens(rows: Sequence[EncodedExample], found: Rewards) -> list[dict[str, Any] | None]:
    """Return what is said of each response's tokens."""
    if found.method is None:
        return [None] * len(rows)
    return [
        {
            "ids": row.responses[0].response_ids.tolist(),
            "rewards": None if rewards is None else rewards.tolist(),
            "method": found.method,
        }
        for row, rewards in zip(rows, found.tokens, strict=True)
    ]


def _plain(scores: np.ndarray) -> list[float | None]:
    """Return scores as JSON has them, null for none."""
    return [None if np.isnan(score) else float(score) for score in scores]


def _logistic(scores: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + exp(-score)), without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * scores))


def _head(kind: str, service: Service, rows: Sequence[EncodedExample]) -> dict[str, Any]:
    """Return what every answer of vLLM's says."""
    tokens = sum(len(one.prompt_ids) + len(one.response_ids) for row in rows for one in row.responses)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {
        "id": f"{kind}-{uuid.uuid4().hex}",
        "created": int(time.time()),
        "model": service.name,
        "usage": usage,
    }


def _require_open(service: Service) -> None:
    """Refuse while loading or draining."""
    if service.closed:
        raise RefusedError(503, service.closed)


def _handle_errors(app: FastAPI) -> None:
    """Answer every error in one shape, which repeats nothing of what was sent."""

    def answer(status: int, message: str) -> Response:
        refused = RefusedError(status, message)
        return Response(refused.body(), status, refused.headers, "application/json")

    @app.exception_handler(RefusedError)
    async def refused(_: Request, error: RefusedError) -> Response:
        return answer(error.status, error.message)

    @app.exception_handler(FullError)
    async def full(_: Request, __: FullError) -> Response:
        return answer(503, "too much is waiting; try again")

    @app.exception_handler(TimeoutError)
    async def late(_: Request, __: TimeoutError) -> Response:
        return answer(504, "the answer took too long")

    @app.exception_handler(BadInputError)
    async def unusable(_: Request, error: BadInputError) -> Response:
        return answer(422, str(error))

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> Response:
        return answer(500, str(error) if isinstance(error, SparseRMError) else type(error).__name__)

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> Response:
        return answer(error.status_code, str(error.detail))

    @app.exception_handler(RequestValidationError)
    async def misshapen(_: Request, error: RequestValidationError) -> Response:
        found = error.errors()
        places = "; ".join(
            f"{'.'.join(json.dumps(part).strip(chr(34)) for part in one['loc'])}: {one['msg']}"
            for one in found[:5]
        )
        return answer(422, places)
