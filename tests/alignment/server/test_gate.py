"""The gate of a live server: keys, sizes, slowness, overload, loading and draining."""

import json
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import live_server

from sparserm_cli.models.reward_model import Rewards

BODY = {"queries": "Q?", "documents": "good"}


@pytest.fixture
def serving(reward: Path) -> Callable[..., Any]:
    """Give a function that serves with other limits."""
    return lambda **options: live_server.live(reward, **options)


class Held:
    """A model that holds each batch until told to go on."""

    def __init__(self, server: Any) -> None:
        self.entered, self.go = threading.Semaphore(0), threading.Event()
        self.responses: list[int] = []
        server.service._batches._compute = self

    def __call__(self, rows: Any, _by_token: bool) -> Rewards:
        """Wait, then score."""
        self.responses.append(len(rows))
        self.entered.release()
        assert self.go.wait(20)
        return Rewards(np.ones(len(rows), np.float32), np.zeros(len(rows), np.float32))


def open_post(server: Any, length: int, body: bytes = b"") -> socket.socket:
    """Begin a post of so many bytes by hand."""
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=20)
    head = f"POST /score HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {server.key}\r\n"
    connection.sendall(f"{head}Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n".encode())
    connection.sendall(body)
    return connection


@pytest.mark.parametrize("key", ["", "a-secret-ke", "a-secret-keyy", "A-SECRET-KEY", "ключ"])
@pytest.mark.parametrize(
    "path", ["/score", "/classify", "/get_reward", "/v1/score", "/v1/classify", "/v1/embeddings"]
)
def test_row_47_wrong_keys_score_nothing(server: Any, monkeypatch: Any, path: str, key: str) -> None:
    """401 before the tokenizer sees anything."""
    seen: list[Any] = []
    monkeypatch.setattr(server.service.model, "tokenize", lambda *arguments, **_: seen.append(arguments))
    key = key.encode().decode("latin-1")
    status, answer, headers = server.ask_fully(path, BODY, key=key)
    assert (status, headers["www-authenticate"]) == (401, "Bearer")
    assert answer["error"]["message"] == "a bearer key is needed, and this is not it"
    assert seen == []


def test_row_47_every_route_but_two_needs_the_key(server: Any) -> None:
    """Health and readiness are for probes, which have none."""
    for path in ("/v1/models", "/info", "/metrics", "/openapi.json", "/nothing"):
        assert server.ask(path, key="wrong")[0] == 401
    for path in ("/health", "/ready"):
        assert server.ask(path, key="wrong")[0] == 200


def test_row_47_keys_are_compared_in_constant_time(server: Any, monkeypatch: Any) -> None:
    """By the standard library's own function."""
    import hmac

    compared: list[Any] = []
    real = hmac.compare_digest
    monkeypatch.setattr(
        hmac, "compare_digest", lambda *arguments: compared.append(arguments) or real(*arguments)
    )
    server.ask("/info", key="wrong")
    assert compared == [(b"wrong", b"a-secret-key")]


def test_row_44_a_large_body_is_refused_before_it_is_read(serving: Callable[..., Any]) -> None:
    """By what it says, and by what it holds."""
    with serving(max_body=1000) as server:
        with open_post(server, 10**12) as said:
            assert b" 413 " in said.recv(1000)
        status, answer = server.ask("/score", {**BODY, "more": "x" * 1000})
        assert (status, answer["error"]["message"]) == (413, "a body of more than 1,000 bytes")
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as chunked:
            head = f"POST /score HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n"
            chunked.sendall(head.encode())
            chunked.sendall(b"7d0\r\n" + b"x" * 2000 + b"\r\n")
            assert b" 413 " in chunked.recv(1000)
        assert server.ask("/score", BODY)[0] == 200


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_row_69_two_lengths_of_one_body_close_the_connection(server: Any, method: str) -> None:
    """What a proxy takes for the end of such a request may not be what the server does."""
    host, port = server.url.removeprefix("http://").split(":")
    smuggled = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    for lengths in (
        ("Content-Length: 6", "Transfer-Encoding: chunked"),
        ("Content-Length: 5", "Content-Length: 6"),
    ):
        head = "\r\n".join((f"{method} /health HTTP/1.1", f"Host: {host}", *lengths, "", "")).encode()
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall(head + b"0\r\n\r\n" + smuggled)
            answer = b""
            while part := connection.recv(4096):
                answer += part
        assert answer.count(b"HTTP/1.1 ") == 1
        assert answer.startswith(b"HTTP/1.1 400 ")


def test_row_44_too_many_inputs_are_refused_before_tokenising(
    serving: Callable[..., Any], monkeypatch: Any
) -> None:
    """One more than may be."""
    with serving(max_inputs=3) as server:
        assert server.ask("/score", {"queries": "Q?", "documents": ["a"] * 3})[0] == 200
        seen: list[Any] = []
        monkeypatch.setattr(server.service.model, "tokenize", lambda *arguments, **_: seen.append(arguments))
        status, answer = server.ask("/score", {"queries": "Q?", "documents": ["a"] * 4})
        assert (status, answer["error"]["message"]) == (413, "4 inputs, where 3 are the most")
        assert seen == []


def test_row_45_a_slow_body_is_given_up(serving: Callable[..., Any]) -> None:
    """408, and the place is free again."""
    with serving(body_seconds=0.2, max_requests=1) as server:
        with open_post(server, 100, b"{") as slow:
            assert b" 408 " in slow.recv(1000)
        assert server.ask("/score", BODY)[0] == 200


def test_row_45_the_work_of_a_client_that_has_gone_is_dropped(serving: Callable[..., Any]) -> None:
    """What waits for it is never computed."""
    with serving() as server, ThreadPoolExecutor() as pool:
        held = Held(server)
        first = pool.submit(server.ask, "/score", BODY)
        assert held.entered.acquire(timeout=20)
        body = json.dumps(BODY).encode()
        with open_post(server, len(body), body):
            wait_until(lambda: server.service.waiting > 0)
        wait_until(lambda: server.service.working == 1)
        held.go.set()
        assert first.result(20)[0] == 200
        assert server.ask("/score", BODY)[0] == 200
        assert held.responses == [1, 1]


def test_row_43_overload_is_refused_at_once(serving: Callable[..., Any]) -> None:
    """As many as may wait are answered, the rest get 503 with Retry-After; health answers all along."""
    with serving(max_waiting=200) as server, ThreadPoolExecutor(20) as pool:
        held = Held(server)
        first = pool.submit(server.ask, "/score", BODY)
        assert held.entered.acquire(timeout=20)
        others = [pool.submit(server.ask_fully, "/score", BODY) for _ in range(19)]
        wait_until(lambda: sum(future.done() for future in others) >= 10)
        assert server.ask("/health")[0] == server.ask("/ready")[0] == 200
        held.go.set()
        answers = [future.result(20) for future in others]
        assert first.result(20)[0] == 200
        refused = [headers["retry-after"] for status, _, headers in answers if status == 503]
        assert sorted({status for status, _, _ in answers}) == [200, 503]
        assert refused == ["1"] * len(refused)
        assert f'status="503"}} {len(refused)}.0' in server.ask("/metrics")[1]
        assert server.ask("/score", BODY)[0] == 200


def test_row_43_only_so_many_requests_are_worked_on(serving: Callable[..., Any]) -> None:
    """Counted before their bodies are read."""
    with serving(max_requests=2) as server:
        with open_post(server, 10), open_post(server, 10):
            wait_until(lambda: server.service.working == 2)
            assert server.ask("/score", BODY)[0] == 503
            assert server.ask("/ready")[0] == 200
        wait_until(lambda: server.service.working == 0)
        assert server.ask("/score", BODY)[0] == 200


def test_an_answer_that_takes_too_long_is_given_up(serving: Callable[..., Any]) -> None:
    """504, so that nothing hangs."""
    with serving(timeout=0.2) as server:
        held = Held(server)
        assert server.ask("/score", BODY)[0] == 504
        held.go.set()
        wait_until(lambda: server.ask("/score", BODY)[0] == 200)


def test_row_49_while_loading_and_draining(serving: Callable[..., Any]) -> None:
    """Alive, not ready, and no scores; what was asked before is answered."""
    with serving(started=False) as server:
        for path, body in (("/ready", None), ("/info", None), ("/v1/models", None), ("/score", BODY)):
            status, answer, headers = server.ask_fully(path, body)
            assert (status, headers["retry-after"]) == (503, "1")
            assert answer["error"]["message"] == "the server is loading; try again"
        assert server.ask("/health")[0] == 200
    with serving() as server, ThreadPoolExecutor() as pool:
        held = Held(server)
        future = pool.submit(server.ask, "/score", BODY)
        assert held.entered.acquire(timeout=20)
        drained = pool.submit(server.service.drain)
        wait_until(lambda: server.service.state == "draining")
        assert server.ask("/ready")[1]["error"]["message"] == "the server is draining; try again"
        assert server.ask("/score", BODY)[0] == 503
        held.go.set()
        assert future.result(20)[0] == 200
        assert drained.result(20) is True


def test_draining_has_an_end(serving: Callable[..., Any]) -> None:
    """What hangs does not hold up the end for longer than agreed."""
    with serving(drain_seconds=0.1) as server, ThreadPoolExecutor() as pool:
        held = Held(server)
        future = pool.submit(server.ask, "/score", BODY)
        assert held.entered.acquire(timeout=20)
        assert server.service.drain() is False
        held.go.set()
        assert future.result(20)[0] == 200


def wait_until(done: Callable[[], bool]) -> None:
    """Wait up to twenty seconds."""
    until = time.monotonic() + 20
    while not done():
        assert time.monotonic() < until
        time.sleep(0.01)
