"""Parse the JSON of a request as strictly as a data file, without delaying other requests.

Only text that no tokenizer can read is let through: it costs the response that holds it its score, not the
others (see `scoring.py`).
A large body is parsed in a thread of its own. Before anything is validated, lists longer than a request may
hold are refused; validation itself stops at the first wrong element (see `server_schemas.py`).

Memory: what is parsed of one body; bodies wait for each other.
"""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from sparserm_cli.data.example import RowError
from sparserm_cli.data.sources.strict_json import Line, parse_json

PARSED_AT_ONCE = 16 << 10
"""Most bytes that are parsed in the event loop, which takes less than a millisecond."""
_parser = ThreadPoolExecutor(1, thread_name_prefix="bodies")


class StrictRoute(APIRoute):
    """A route whose requests are parsed by this module."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return a handler that reads requests strictly."""
        handle = super().get_route_handler()

        async def handle_strictly(request: Request) -> Response:
            return await handle(_StrictRequest(request.scope, request.receive))

        return handle_strictly


class _StrictRequest(Request):
    """A request whose JSON is parsed strictly."""

    async def json(self) -> Any:
        """Return the JSON of the body.

        Raises:
            HTTPException: the body is not JSON, breaks a rule of JSON lines, or has a list that is too long.

        """
        if not hasattr(self, "_strict_json"):
            body = await self.body()
            if len(body) <= PARSED_AT_ONCE:
                value = parsed(body)
            else:
                value = await asyncio.get_running_loop().run_in_executor(_parser, parsed, body)
            refuse_long_lists(value, self.app.state.service.config.max_inputs)
            self._strict_json = value
        return self._strict_json


def parsed(body: bytes) -> Any:
    """Return the JSON of a body.

    Raises:
        HTTPException: the body is not JSON, or has duplicate keys, NaN, deep nesting or a similar fault.

    """
    try:
        return parse_json(Line(1, 0, body, len(body), ended=True), any_text=True)
    except RowError as error:
        raise HTTPException(400, f"the body: {error.reason}") from None


def refuse_long_lists(body: Any, most: int) -> None:
    """Refuse a field with more than `most` inputs before any of them is validated.

    Lists of numbers (token ids) and of turns (one conversation) are not lists of inputs; their elements are
    refused, or counted, where they are validated.

    Raises:
        HTTPException: a field has more inputs.

    """
    fields = body.values() if isinstance(body, dict) else ()
    for value in fields:
        if isinstance(value, list) and len(value) > most and not isinstance(value[0], int | float | dict):
            raise HTTPException(413, f"{len(value):,} inputs, where {most:,} are the most")
