"""The ASGI application of the server: the routes of all client protocols and one form for all errors."""

import json

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from sparserm_cli import __version__
from sparserm_cli.alignment.server.batches import FullError
from sparserm_cli.alignment.server.gate import Gate, RefusedError
from sparserm_cli.alignment.server.routes import about, openrlhf, sglang, tei, vllm
from sparserm_cli.alignment.server.service import Service
from sparserm_cli.errors import BadInputError, SparseRMError

PROTOCOLS = (about, vllm, sglang, openrlhf, tei)
"""The modules of routes; each has a `router`."""


def make_app(service: Service, key: str) -> Gate:
    """Return the ASGI application.

    Args:
        service: the service that does the work; it may still be loading.
        key: the bearer token that clients must send; "" allows everybody.

    """
    app = FastAPI(title="sparserm", version=__version__, docs_url=None, redoc_url=None)
    app.state.service = service
    _handle_errors(app)
    for protocol in PROTOCOLS:
        app.include_router(protocol.router)
    routes = [*app.routes, *(route for protocol in PROTOCOLS for route in protocol.router.routes)]
    paths = [str(getattr(route, "path", "")) for route in routes]
    return Gate(app, service, key, paths)


def _handle_errors(app: FastAPI) -> None:
    """Answer every error in the same form, which repeats no content of the request."""

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
        faults = error.errors()
        places = "; ".join(
            f"{'.'.join(json.dumps(part).strip(chr(34)) for part in fault['loc'])}: {fault['msg']}"
            for fault in faults[:5]
        )
        return answer(422, places)
