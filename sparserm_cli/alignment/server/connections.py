"""Who may be connected, for how long before a request's headers are whole, and how much is logged about it.

uvicorn limits neither of these, but takes a protocol class, so the limits are a few lines on top of its own.
A connection that waits for headers costs nothing but a file: where connections run out, the one that has
waited longest makes room for the next, and whoever sends whole requests, `/health` included, is let in.
"""

import asyncio
import logging
import time
from collections import Counter
from importlib.util import find_spec
from typing import ClassVar

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from sparserm_cli.alignment.server.gate import RETRY_SECONDS, Application
from sparserm_cli.config import ServeConfig

ACCEPTED_AT_ONCE = 64
"""Connections that asyncio accepts before it looks at any of them."""
OTHER_FILES = 256
"""Files left for everything else: the model, logs, and connections that are accepted and not yet counted."""

_END = "connection: close\r\ncontent-length: 0\r\n\r\n"
REFUSALS = {
    408: f"HTTP/1.1 408 Request Timeout\r\n{_END}".encode(),
    503: f"HTTP/1.1 503 Service Unavailable\r\nretry-after: {RETRY_SECONDS}\r\n{_END}".encode(),
}
"""Answers to clients whose request has not been read."""


class Connections:
    """The connections of one server.

    Args:
        most: connections at a time.
        most_each: connections at a time from one address.
        header_seconds: time that the headers of a request may take, in seconds.

    """

    def __init__(self, most: int, most_each: int, header_seconds: float) -> None:
        self.most, self.most_each, self.header_seconds = most, most_each, header_seconds
        self._clients: dict[Connection, str] = {}
        self._counts: Counter[str] = Counter()
        # Those that have no whole request, the longest waiting first, by address and all together.
        self._waiting: dict[Connection, None] = {}
        self._waiting_each: dict[str, dict[Connection, None]] = {}

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._clients)

    def enter(self, connection: "Connection", client: str) -> bool:
        """Count a new connection; tell whether there is room, made by ending one that waits if need be."""
        full_each = self._counts[client] >= self.most_each
        if full_each or len(self._clients) >= self.most:
            candidates = self._waiting_each.get(client, {}) if full_each else self._waiting
            oldest = next(iter(candidates), None)
            if oldest is None:
                return False
            self.leave(oldest)
            oldest.refuse(503)
        self._clients[connection] = client
        self._counts[client] += 1
        self.wait(connection)
        return True

    def wait(self, connection: "Connection") -> None:
        """Note that a connection has no whole request."""
        client = self._clients.get(connection)
        if client is not None:
            self._waiting.setdefault(connection)
            self._waiting_each.setdefault(client, {}).setdefault(connection)

    def work(self, connection: "Connection") -> None:
        """Note that the headers of a request have come."""
        self._waiting.pop(connection, None)
        each = self._waiting_each.get(self._clients.get(connection, ""), {})
        each.pop(connection, None)

    def leave(self, connection: "Connection") -> None:
        """Forget a connection."""
        self.work(connection)
        client = self._clients.pop(connection, None)
        if client is not None:
            self._counts[client] -= 1
            if not self._counts[client]:
                del self._counts[client]
                self._waiting_each.pop(client, None)


class Connection(H11Protocol):
    """uvicorn's protocol with a deadline for headers; a subclass sets the `connections` it belongs to."""

    connections_of_server: ClassVar[Connections]
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Let a client in, or cut it off where there is no room."""
        super().connection_made(transport)
        client = self.client[0] if self.client else ""
        if not self.connections_of_server.enter(self, client):
            self.refuse(503)
            return
        self._await_headers()

    def data_received(self, data: bytes) -> None:
        """Take bytes, and look whether they complete the headers."""
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        """Go on to the next request, which uvicorn gives its own time to begin."""
        super().on_response_complete()
        if self.conn.their_state is h11.IDLE:
            self.connections_of_server.wait(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        super().connection_lost(exc)
        self._headers_came()
        self.connections_of_server.leave(self)

    def refuse(self, status: int) -> None:
        """End a connection that has no whole request, and tell the client why: 503 or 408."""
        self.transport.write(REFUSALS[status])
        self.transport.close()

    def _look(self) -> None:
        if self.conn.their_state is h11.IDLE:
            self.connections_of_server.wait(self)
            self._await_headers()
        else:
            self.connections_of_server.work(self)
            self._headers_came()

    def _await_headers(self) -> None:
        if self._deadline is None:
            seconds = self.connections_of_server.header_seconds
            self._deadline = self.loop.call_later(seconds, self.refuse, 408)

    def _headers_came(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def room_for(config: ServeConfig) -> int:
    """Return how many connections there may be, within what this process may open."""
    if find_spec("resource") is None:
        return config.max_connections  # Windows has no such limit to ask for
    import resource

    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return config.max_connections if files < 0 else max(1, min(config.max_connections, files - OTHER_FILES))


def http_server(app: Application, config: ServeConfig) -> uvicorn.Server:
    """Return uvicorn with the limits of `config` on connections and headers."""
    limits = Connections(room_for(config), config.max_client_connections, config.header_seconds)

    class Limited(Connection):
        connections_of_server = limits

    options = uvicorn.Config(
        app,
        http=Limited,
        ws="none",
        backlog=ACCEPTED_AT_ONCE,
        log_config=None,
        access_log=False,
        lifespan="off",
    )
    return uvicorn.Server(options)


class OncePerSecond(logging.Filter):
    """Lets a message through once a second, however often it is logged."""

    MOST = 100

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether to log a record."""
        error = record.exc_info[1] if record.exc_info else None
        what, now = f"{record.msg}{error!r}", time.monotonic()
        if now - self._last.get(what, -1.0) < 1:
            return False
        if len(self._last) >= self.MOST:
            self._last.clear()
        self._last[what] = now
        return True


def log_sparingly() -> None:
    """Keep a flood of connections from becoming a flood of messages."""
    for name in ("asyncio", "uvicorn.error"):
        logging.getLogger(name).addFilter(OncePerSecond())
