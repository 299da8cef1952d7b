"""Asking a server: patience with a busy one, none with a wrong one."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, ClassVar

import pytest

from sparserm_cli.alignment.trainers.client import post
from sparserm_cli.errors import BadInputError, IncompatibleError, TemporaryError


class Handler(BaseHTTPRequestHandler):
    """Answers with the statuses it was given, one after the other."""

    statuses: ClassVar[list[int]] = []
    asked: ClassVar[list[tuple[str | None, Any]]] = []

    def do_POST(self) -> None:
        """Answer one."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.asked.append((self.headers["Authorization"], json.loads(body)))
        status = self.statuses.pop(0)
        answer = {"fine": True} if status == 200 else {"error": {"message": "because"}}
        self.send_response(status)
        self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    """Give the address of such a server."""
    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    Handler.statuses[:], Handler.asked[:] = [], []
    yield f"http://127.0.0.1:{server.server_port}/score"
    server.shutdown()
    server.server_close()


def test_a_busy_server_is_asked_again(url: str) -> None:
    """Until it answers."""
    Handler.statuses[:] = [503, 504, 500, 200]
    assert post(url, {"a": 1}, key="k") == {"fine": True}
    assert Handler.asked == [("Bearer k", {"a": 1})] * 4


@pytest.mark.parametrize(
    ("status", "kind", "said"),
    [
        (422, BadInputError, "expected something to score, found because; leave it out"),
        (413, BadInputError, "expected something to score, found because; leave it out"),
        (
            401,
            IncompatibleError,
            "expected a sparserm server that lets us in, found HTTP 401: because;",
        ),
        (
            404,
            IncompatibleError,
            "expected a sparserm server that lets us in, found HTTP 404: because;",
        ),
    ],
)
def test_a_final_answer_is_final(url: str, status: int, kind: type[Exception], said: str) -> None:
    """Without asking again, and without a key where there is none."""
    Handler.statuses[:] = [status]
    with pytest.raises(kind) as caught:
        post(url, {})
    assert str(caught.value).startswith(f"{url}: {said}")
    assert Handler.asked == [(None, {})]


def test_patience_has_an_end(url: str) -> None:
    """For a server that is busy, and for one that is not there."""
    Handler.statuses[:] = [503] * 10_000
    with pytest.raises(TemporaryError, match="expected a server that answers, found HTTP 503"):
        post(url, {}, patience=0.05)
    with pytest.raises(TemporaryError, match="refused"):
        post("http://127.0.0.1:9/score", {}, patience=0.05)
