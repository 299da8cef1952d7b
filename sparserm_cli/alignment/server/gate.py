"""The middleware in front of the application checks keys, sizes and times of requests.

Whatever can be refused without reading, parsing or tokenising a body is refused here, in this order: a wrong
key (401), a server that is loading, draining or busy (503), a body that is too large (413) or too slow (408).
The work for a client that has disconnected is cancelled.

Memory: at most `max_requests` bodies of `max_body` bytes.
"""

import asyncio
import hmac
import json
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from contextlib import suppress
from typing import Any

from sparserm_cli.alignment.server.service import Service

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN = frozenset({"/health", "/ready"})
"""Paths that need no key and are answered in every state."""
RETRY_SECONDS = 1


class RefusedError(Exception):
    """A request that is refused.

    Args:
        status: HTTP status of the answer.
        message: the message for the client.

    """

    def __init__(self, status: int, message: str) -> None:
        self.status, self.message = status, message
        super().__init__(message)

    @property
    def headers(self) -> dict[str, str]:
        """The headers that belong to the status."""
        return {401: {"www-authenticate": "Bearer"}, 503: {"retry-after": str(RETRY_SECONDS)}}.get(
            self.status, {}
        )

    def body(self) -> bytes:
        """Return the answer in the form that vLLM and OpenAI use."""
        problem = {"message": self.message, "type": type(self).__name__, "code": self.status}
        return json.dumps({"error": problem}).encode()


class Gate:
    """ASGI middleware that checks requests.

    Args:
        app: the application.
        service: the service that does the work.
        key: the bearer token that clients must send; "" allows everybody.
        paths: the known paths, under which requests are counted.

    """

    def __init__(self, app: Application, service: Service, key: str, paths: Iterable[str]) -> None:
        self._app, self._service, self._config = app, service, service.config
        self._key = key.encode()
        self._paths = frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status = (
            time.monotonic(),
            499,
        )  # nginx's status for a client that disconnected before the answer

        async def recorded_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._through(scope, receive, recorded_send)
        except RefusedError as refused:
            await _refuse(recorded_send, refused)
        finally:
            path = scope["path"] if scope["path"] in self._paths else "other"
            self._service.metrics.answered(path, status, time.monotonic() - begun)

    async def _through(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check a request, read its body and pass both on.

        Raises:
            RefusedError: a check failed.

        """
        names = [name for name, _ in scope["headers"]]
        if b"content-length" in names and b"transfer-encoding" in names:
            # Proxies on the way may disagree on where such a request ends.
            raise RefusedError(400, "both Content-Length and Transfer-Encoding")
        if scope["path"] not in OPEN:
            self._check_key(scope)
        if scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        if self._service.closed:
            raise RefusedError(503, self._service.closed)
        if self._service.working >= self._config.max_requests:
            raise RefusedError(503, f"{self._config.max_requests:,} requests are being worked on; try again")
        self._service.working += 1
        try:
            body = await self._read(scope, receive)
            await _while_there(self._app, scope, receive, send, body)
        finally:
            self._service.working -= 1

    def _check_key(self, scope: Scope) -> None:
        """Compare the bearer token in constant time.

        Raises:
            RefusedError: the token is missing or wrong.

        """
        if not self._key:
            return
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        scheme, _, token = given.partition(b" ")
        if not hmac.compare_digest(token.strip(), self._key) or scheme.lower() != b"bearer":
            raise RefusedError(401, "a bearer key is needed, and this is not it")

    async def _read(self, scope: Scope, receive: Receive) -> bytes:
        """Return the body of a request.

        Raises:
            RefusedError: the body is too large or takes too long.

        """
        most = self._config.max_body
        said = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        parts: list[bytes] = []
        size, more = int(said) if said.isdigit() else 0, True
        too_large = RefusedError(413, f"a body of more than {most:,} bytes")
        if size > most:
            raise too_large
        size = 0
        try:
            async with asyncio.timeout(self._config.body_seconds):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise RefusedError(408, "the client went before its body came")
                    parts.append(message.get("body", b""))
                    size, more = size + len(parts[-1]), message.get("more_body", False)
                    if size > most:
                        raise too_large
        except TimeoutError:
            raise RefusedError(408, f"the body took over {self._config.body_seconds:g} s") from None
        return b"".join(parts)


async def _while_there(app: Application, scope: Scope, receive: Receive, send: Send, body: bytes) -> None:
    """Run the application on a body that has been read, as long as the client is connected."""
    handed = False

    async def replay() -> Message:
        nonlocal handed
        if handed:
            return await receive()
        handed = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    work, watch = asyncio.create_task(_run(app, scope, replay, send)), asyncio.create_task(gone())
    try:
        await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (work, watch):
            task.cancel()
        await asyncio.wait({work, watch})
    with suppress(asyncio.CancelledError):
        work.result()


async def _run(app: Application, scope: Scope, receive: Receive, send: Send) -> None:
    """Run the application as a coroutine, because a task needs one."""
    await app(scope, receive, send)


async def _refuse(send: Send, refused: RefusedError) -> None:
    """Answer with a refusal; the connection is closed, since its body may not have been read."""
    body = refused.body()
    headers = {"content-type": "application/json", "connection": "close", **refused.headers}
    headers["content-length"] = str(len(body))
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refused.status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})
