"""Limits on connections, on the time until a request's headers are complete, and on log messages.

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
"""Number of connections that asyncio accepts before it handles any of them."""
OTHER_FILES = 256
"""File descriptors reserved for the model, logs and connections that are accepted but not yet counted."""

_END = "connection: close\r\ncontent-length: 0\r\n\r\n"
REFUSALS = {
    408: f"HTTP/1.1 408 Request Timeout\r\n{_END}".encode(),
    503: f"HTTP/1.1 503 Service Unavailable\r\nretry-after: {RETRY_SECONDS}\r\n{_END}".encode(),
}
"""Answers to clients whose request has not been read."""


class Connections:
    """The connections of one server.

    Args:
        most: most concurrent connections.
        most_each: most concurrent connections per address.
        header_seconds: most seconds until the headers of a request are complete.

    """

    def __init__(self, most: int, most_each: int, header_seconds: float) -> None:
        self.most, self.most_each, self.header_seconds = most, most_each, header_seconds
        self._clients: dict[Connection, str] = {}
        self._counts: Counter[str] = Counter()
        # Connections without a complete request, the longest waiting first, per address and in total.
        self._waiting: dict[Connection, None] = {}
        self._waiting_each: dict[str, dict[Connection, None]] = {}

    def __len__(self) -> int:
        """Return the number of connections."""
        return len(self._clients)

    def enter(self, connection: "Connection", client: str) -> bool:
        """Count a new connection and return whether there is room, ending a waiting one if necessary."""
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
        """Record that a connection has no complete request."""
        client = self._clients.get(connection)
        if client is not None:
            self._waiting.setdefault(connection)
            self._waiting_each.setdefault(client, {}).setdefault(connection)

    def work(self, connection: "Connection") -> None:
        """Record that the headers of a request are complete."""
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
        """Accept a client, or disconnect it if there is no room."""
        super().connection_made(transport)
        client = self.client[0] if self.client else ""
        if not self.connections_of_server.enter(self, client):
            self.refuse(503)
            return
        self._await_headers()

    def data_received(self, data: bytes) -> None:
        """Receive bytes, and check whether they complete the headers."""
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        """Continue with the next request, which uvicorn gives its own time to begin."""
        super().on_response_complete()
        if self.conn.their_state is h11.IDLE:
            self.connections_of_server.wait(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        super().connection_lost(exc)
        self._headers_came()
        self.connections_of_server.leave(self)

    def refuse(self, status: int) -> None:
        """End a connection without a complete request, and send the client the status 503 or 408."""
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
    """Return the largest number of connections, within the limit on open files of this process."""
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
    """Lets a message through once per second, however often it is logged."""

    MOST = 100

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to log a record."""
        error = record.exc_info[1] if record.exc_info else None
        what, now = f"{record.msg}{error!r}", time.monotonic()
        if now - self._last.get(what, -1.0) < 1:
            return False
        if len(self._last) >= self.MOST:
            self._last.clear()
        self._last[what] = now
        return True


def log_sparingly() -> None:
    """Limit the messages that many connections would cause."""
    for name in ("asyncio", "uvicorn.error"):
        logging.getLogger(name).addFilter(OncePerSecond())
