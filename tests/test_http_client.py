"""Asking a server: patience with a busy one, none with a wrong one, and no belief in half an answer."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from typing import Any

import pytest

from sparserm_cli import http_client as client
from sparserm_cli.alignment.trainers.judging import Scorer
from sparserm_cli.alignment.trainers.server_scorer import ServerScorer
from sparserm_cli.config import ScoreLimits
from sparserm_cli.errors import BadInputError, IncompatibleError, TemporaryError
from sparserm_cli.http_client import Client


def http(status: int, body: bytes | object = b"", *headers: str) -> bytes:
    """Return an answer; what is no bytes goes as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} Because", f"Content-Length: {len(data)}", *headers]
    return "\r\n".join((*lines, "", "")).encode() + data


class Server:
    """Answers with the bytes it was given, one connection after the other; the last answer for ever."""

    def __init__(self) -> None:
        self.answers: list[bytes] = []
        self.requests: list[tuple[str, Any]] = []
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        while True:
            connection, _ = self.socket.accept()
            with connection:
                data = b""
                while b"\r\n\r\n" not in data:
                    piece = connection.recv(65536)
                    if not piece:
                        return
                    data += piece
                head, _, body = data.partition(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                while len(body) < length:
                    body += connection.recv(65536)
                self.requests.append((head.decode(), json.loads(body)))
                connection.sendall(self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])

    def close(self) -> None:
        """End, by a connection that says nothing."""
        socket.create_connection(self.socket.getsockname()).close()
        self.thread.join()
        self.socket.close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Give such a server, and a client that does not wait long for it."""
    monkeypatch.setattr(client, "_PAUSE", client._LEAST_PAUSE)
    server = Server()
    yield server
    server.close()


GOOD = http(200, {"fine": True})
TRANSIENT = {
    "408": http(408),
    "429, a date": http(429, b"", f"Retry-After: {formatdate(time.time() - 60, usegmt=True)}"),
    "500": http(500),
    "501": http(501),
    "503, negative": http(503, b"", "Retry-After: -5"),
    "503, no number": http(503, b"", "Retry-After: soon"),
    "503, infinite": http(503, b"", "Retry-After: inf"),
    "599": http(599),
    "HTML": http(200, b"<html>Wait</html>", "Content-Type: text/html"),
    "a list": http(200, [1]),
    "deep nesting": http(200, b"[" * 100_000),
    "cut": http(200, {"fine": True})[:-3],
    "cut without a length": b'HTTP/1.1 200 OK\r\n\r\n{"fine": tr',
    "a bad status line": b"HTTP/1.1 2x0 OK\r\n\r\n",
    "no HTTP": b"hello\r\n\r\n",
    "nothing": b"",
    "a bad length": b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n{}",
    "a bad encoding": http(200, b"no gzip", "Content-Encoding: gzip"),
}


@pytest.mark.parametrize("answer", TRANSIENT.values(), ids=TRANSIENT)
def test_row_83_what_may_pass_is_asked_again(server: Server, answer: bytes) -> None:
    """With the same body and key, until there is a whole answer."""
    server.answers = [answer, answer, GOOD]
    assert Client(server.url, "k").post("/score", {"a": 1}) == {"fine": True}
    assert [body for _, body in server.requests] == [{"a": 1}] * 3
    assert all("authorization: bearer k" in head.lower() for head, _ in server.requests)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (http(503), "HTTP 503"),
        (http(200, b"<html>"), "HTTP 200 without a JSON object"),
        (b"", "Server disconnected without sending a response."),
    ],
)
def test_row_83_patience_has_an_end(server: Server, answer: bytes, said: str) -> None:
    """Whatever the fault; a server that is not there is one more."""
    server.answers = [answer]
    with pytest.raises(TemporaryError) as caught:
        Client(server.url).post("/score", {}, until=time.monotonic() + 0.1)
    where = f"{server.url}/score"
    assert str(caught.value) == f"{where}: expected a server that answers, found {said}; look whether it runs"
    with pytest.raises(TemporaryError, match="refused"):
        Client("http://127.0.0.1:9").post("/score", {}, until=time.monotonic() + 0.05)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("0", 0.02),
        ("-1", 1.0),
        ("nan", 1.0),
        ("1e9", 30.0),
        (None, 1.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 30.0),
        ("Fri, 31 Dec 1999 23:59:59 GMT", 1.0),
        ("Fri, 99 Dec 1999", 1.0),
    ],
)
def test_row_83_a_server_says_how_long_to_wait(header: str | None, seconds: float) -> None:
    """As a number or a date, within bounds."""
    assert client._pause(header) == seconds


@pytest.mark.parametrize(
    ("status", "kind", "said"),
    [
        (422, BadInputError, "expected something to score, found because; leave it out"),
        (413, BadInputError, "expected something to score, found because; leave it out"),
        (401, IncompatibleError, "expected a sparserm server that lets us in, found HTTP 401: because;"),
        (404, IncompatibleError, "expected a sparserm server that lets us in, found HTTP 404: because;"),
    ],
)
def test_a_final_answer_is_final(server: Server, status: int, kind: type[Exception], said: str) -> None:
    """Without asking again, and without a key where there is none."""
    server.answers = [http(status, {"error": {"message": "because\x1b["}})]
    with pytest.raises(kind) as caught:
        Client(server.url).post("/score", {})
    assert str(caught.value).replace("?[", "").startswith(f"{server.url}/score: {said}")
    assert len(server.requests) == 1
    assert "authorization" not in server.requests[0][0].lower()


def test_row_83_a_server_that_fails_again_and_again_at_one_request_refuses_it(server: Server) -> None:
    """So that the scorer finds the response that it fails at."""
    server.answers = [http(500)]
    with pytest.raises(BadInputError, match="found HTTP 500 3 times"):
        Client(server.url).post("/score", {})


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_row_84_a_redirect_never_carries_the_key(server: Server, status: int) -> None:
    """Nor the responses: it is named, not followed."""
    other = Server()
    server.answers, other.answers = [http(status, b"", f"Location: {other.url}/steal")], [GOOD]
    with pytest.raises(IncompatibleError) as caught:
        Client(server.url, "secret").post("/score", {})
    other.close()
    assert other.requests == []
    assert f"found HTTP {status} to {other.url}/steal; give the address" in str(caught.value)


def row(index: int, score: object, **more: object) -> dict[str, object]:
    """Return what a server says of one response."""
    return {"index": index, "score": score, "ood": 0.5, "tokens": None, **more}


def judge(scorer: Scorer, count: int = 2) -> list[Any]:
    """Return scores of some responses."""
    judgements = scorer.judge(["Q"] * count, [f"A{number}" for number in range(count)])
    return [judgement.score for judgement in judgements]


def test_row_85_replies_are_matched_by_index(server: Server) -> None:
    """In whatever order they come."""
    server.answers = [http(200, {"data": [row(1, 1.0), row(0, None), row(2, 3)]})]
    assert judge(ServerScorer(server.url, "", ScoreLimits()), 3) == [None, 1.0, 3.0]


@pytest.mark.parametrize(
    "data",
    [
        [row(0, 1.0)],
        [row(0, 1.0), row(0, 2.0)],
        [row(0, 1.0), row(2, 2.0)],
        [row(0, 1.0), row(1, 2.0), row(2, 3.0)],
        [row(0, 1.0), row(1, "2.0")],
        [row(0, 1.0), row(1, True)],
        [row(0, 1.0), row(1, float("nan"))],
        [row(0, 1.0), {"index": 1, "ood": 0.5}],
        [row(0, 1.0), 3],
        {},
        None,
    ],
)
def test_row_85_another_count_or_no_numbers_are_no_scores(
    server: Server, data: object, caplog: pytest.LogCaptureFixture
) -> None:
    """At first an error; in the middle of a training run no reward, with one line in the log."""
    scorer = ServerScorer(server.url, "", ScoreLimits())
    server.answers = [http(200, {"data": data}), http(200, {"data": [row(0, 1.0), row(1, 2.0)]})]
    with pytest.raises(IncompatibleError, match="expected scores of 2 responses by their index, found"):
        judge(scorer)
    assert judge(scorer) == [1.0, 2.0]
    server.answers = [http(200, {"data": data})]
    assert judge(scorer) == [None, None]
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("2 of 2 responses have no reward; the first: ")


@pytest.mark.parametrize(
    "answer", [http(401), http(404), http(302, b"", "Location: /"), http(503), b"", http(200)]
)
def test_row_83_a_server_that_answered_once_stops_no_training(
    server: Server, answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is wrong at once is an error; what goes wrong later leaves responses without a reward."""
    monkeypatch.setattr("sparserm_cli.alignment.trainers.judging.PATIENCE", 0.1)
    scorer = ServerScorer(server.url, "", ScoreLimits())
    server.answers = [answer]
    with pytest.raises((IncompatibleError, TemporaryError)):
        judge(scorer)
    server.answers = [http(200, {"data": [row(0, 1.0), row(1, 2.0)]})]
    assert judge(scorer) == [1.0, 2.0]
    server.answers = [answer]
    assert judge(scorer) == [None, None]


def test_row_86_guards_travel_with_the_request(server: Server) -> None:
    """Those that were given, and no others."""
    guards = {"normalize": True, "clip": 2.0, "abstain": None}
    server.answers = [http(200, {"guards": guards, "data": [row(0, 1.0), row(1, 2.0)]})]
    assert judge(ServerScorer(server.url, "", ScoreLimits(normalize=True, clip=2.0))) == [1.0, 2.0]
    assert judge(ServerScorer(server.url, "", ScoreLimits())) == [1.0, 2.0]
    bodies = [{name: body[name] for name in guards if name in body} for _, body in server.requests]
    assert bodies == [{"normalize": True, "clip": 2.0}, {}]


@pytest.mark.parametrize(
    ("echo", "echoed"), [({}, "none"), ({"guards": None}, "none"), ({"guards": {"clip": 5.0}}, "5.0")]
)
def test_row_86_a_server_that_does_not_apply_a_guard_is_refused(
    server: Server, echo: dict[str, object], echoed: str
) -> None:
    """Older servers let the field pass and score without it."""
    server.answers = [http(200, {**echo, "data": [row(0, 1.0), row(1, 2.0)]})]
    with pytest.raises(IncompatibleError) as caught:
        judge(ServerScorer(server.url, "", ScoreLimits(clip=2.0)))
    assert str(caught.value) == (
        f"{server.url}/score: the guard clip: expected 2.0, found {echoed}; "
        "update the server, or give the guard to `sparserm serve` and leave it out here"
    )
