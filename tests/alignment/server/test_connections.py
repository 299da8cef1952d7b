"""Who may be connected: headers that never end shut nobody out, and are not waited for."""

import logging
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers import live_server

pytest.importorskip("uvicorn")

from sparserm_cli.alignment.server import connections as module
from sparserm_cli.config import ServeConfig

HALF = b"POST /score HTTP/1.1\r\nHost: x\r\nX-Slow: "
WHOLE = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"


def connect(server: Any, data: bytes = HALF, source: str = "127.0.0.1") -> socket.socket:
    """Open a connection from an address of the loopback network, and begin a request."""
    port = int(server.url.rpartition(":")[2])
    connection = socket.create_connection(("127.0.0.1", port), timeout=20, source_address=(source, 0))
    connection.sendall(data)
    return connection


def ended(connection: socket.socket, status: int) -> bool:
    """Tell whether the server has ended a connection with such a status, within twenty seconds."""
    answer = b""
    try:
        while part := connection.recv(1000):
            answer += part
    except ConnectionResetError:  # what the client has sent was not read
        pass
    except TimeoutError:
        return False
    return f"HTTP/1.1 {status} ".encode() in answer


def is_open(connection: socket.socket) -> bool:
    """Tell whether a connection is open: nothing has come, not even an end."""
    connection.settimeout(0.2)
    try:
        return connection.recv(1000) != b""
    except ConnectionResetError:
        return False
    except TimeoutError:
        return True


@contextmanager
def serving(reward: Path, **options: Any) -> Iterator[Any]:
    """Serve, and close what a test has opened before the server stops."""
    with live_server.live(reward, **options) as server, ExitStack() as stack:
        server.open = lambda *args, **more: stack.enter_context(connect(server, *args, **more))
        yield server


def test_row_65_headers_have_a_deadline(reward: Path) -> None:
    """Of a first request and of a later one on the same connection; bytes that trickle do not help."""
    with serving(reward, header_seconds=0.5) as server:
        silent, half, later = server.open(b""), server.open(), server.open(WHOLE)
        assert b" 200 " in later.recv(1000)
        later.sendall(HALF)
        begun = time.monotonic()
        trickling = server.open()
        while time.monotonic() - begun < 15:
            try:
                trickling.sendall(b"x")
            except OSError:
                break
            time.sleep(0.05)
        assert time.monotonic() - begun < 15
        assert ended(silent, 408)
        assert ended(half, 408)
        assert ended(later, 408)


def test_row_65_whole_requests_are_not_cut_off(reward: Path) -> None:
    """What came whole is answered, however long the model takes."""
    with serving(reward, header_seconds=0.2) as server:
        compute = server.service._batches._compute
        server.service._batches._compute = lambda *args: time.sleep(1) or compute(*args)
        assert server.ask("/score", {"queries": "Q?", "documents": "good"})[0] == 200


def test_row_66_half_sent_headers_shut_nobody_out(reward: Path) -> None:
    """The one that has waited longest makes room, and health is answered all along."""
    with serving(reward, max_connections=8, max_client_connections=8) as server:
        held = [server.open() for _ in range(20)]
        assert server.ask("/health")[0] == 200
        assert server.ask("/score", {"queries": "Q?", "documents": "good"})[0] == 200
        assert all(ended(connection, 503) for connection in held[:10])
        assert is_open(held[-1])


def test_row_66_one_client_does_not_use_up_the_connections_of_others(reward: Path) -> None:
    """An address has a limit of its own, and makes room for itself alone."""
    with serving(reward, max_connections=8, max_client_connections=3) as server:
        other = server.open(source="127.0.0.2")
        held = [server.open() for _ in range(12)]
        assert all(ended(connection, 503) for connection in held[:9])
        assert is_open(other)
        assert is_open(held[-1])


def test_row_66_connections_at_work_are_never_ended_for_others(reward: Path) -> None:
    """Where all are at work, the new one is cut off."""
    body = b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"
    with serving(reward, max_connections=2, max_client_connections=2) as server:
        working = [server.open(body) for _ in range(2)]
        until = time.monotonic() + 20
        while server.service.working < 2:
            assert time.monotonic() < until
            time.sleep(0.01)
        assert ended(server.open(WHOLE), 503)
        assert all(is_open(connection) for connection in working)


def test_row_66_connections_fit_into_the_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the process may open is less than what was asked for: 256 are left for everything else."""
    limits = []
    for files in (1024, 512, 100, resource.RLIM_INFINITY):
        monkeypatch.setattr(resource, "getrlimit", lambda _, files=files: (files, files))
        limits.append(module.room_for(ServeConfig(max_connections=640)))
    assert limits == [640, 256, 1, 640]


def test_row_67_a_message_is_logged_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its logger; others are not held back, and neither is the same one later."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    sparing = module.OncePerSecond()

    def passes(text: str, error: Exception | None = None) -> bool:
        info = (type(error), error, None) if error else None
        return sparing.filter(logging.LogRecord("asyncio", logging.ERROR, "", 0, text, None, info))

    assert [passes("accept") for _ in range(3)] == [True, False, False]
    assert passes("other")
    assert passes("accept", OSError(24, "Too many open files"))
    assert not passes("accept", OSError(24, "Too many open files"))
    now[0] += 1.0
    assert [passes("accept") for _ in range(2)] == [True, False]
    assert all(passes(str(number)) for number in range(1000))
    assert len(sparing._last) <= module.OncePerSecond.MOST


def test_row_67_the_filter_is_where_a_server_logs() -> None:
    """Asyncio tells of failed accepts, uvicorn of requests that are none."""
    loggers = [logging.getLogger(name) for name in ("asyncio", "uvicorn.error")]
    module.log_sparingly()
    try:
        assert all(isinstance(logger.filters[-1], module.OncePerSecond) for logger in loggers)
    finally:
        for logger in loggers:
            logger.removeFilter(logger.filters[-1])
