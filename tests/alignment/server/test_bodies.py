"""The JSON of a request: strict, bounded before it is validated, and in nobody's way."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from helpers import live_server

pytest.importorskip("fastapi")

from sparserm_cli.alignment.server import bodies as module

MILLION = [1] * 1_000_000


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            b'{"queries": "a", "queries": "b"}',
            'expected each key once, found the key "queries" more than once',
        ),
        (b'{"queries": "a", "x": NaN}', "expected finite numbers, found NaN"),
        (b'{"queries": "a", "x": 1e999}', 'expected finite numbers, found "1e999"'),
        (b"[" * 65 + b"]" * 65, "expected at most 64 levels of nesting, found more"),
        (b"[" * 100_000, "expected at most 64 levels of nesting, found more"),
        (b'{"queries": "\xff"}', "expected UTF-8 text, found byte 0xff at byte 13"),
        (json.dumps({"a": 1}).encode("utf-16"), "expected UTF-8 text, found byte 0xff at byte 0"),
    ],
)
def test_row_68_the_server_is_as_strict_as_the_reader(server: Any, body: bytes, said: str) -> None:
    """400, with what a data file would be refused for, however large the body is."""
    status, answer = server.ask("/score", raw=body)
    assert (status, answer["error"]["message"]) == (400, f"the body: {said}")
    if body.startswith(b'{"q'):
        padded = body + b" " * module.PARSED_AT_ONCE
        status, answer = server.ask("/score", raw=padded)
        assert (status, answer["error"]["message"]) == (400, f"the body: {said}")


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/score", {"queries": "a", "documents": MILLION}, 422, "token ids are not taken: send text"),
        ("/score", {"queries": "a", "documents": [None] * 300_000}, 413, "300,000 inputs, where 256"),
        (
            "/score",
            {"queries": "a", "documents": [None] * 256},
            422,
            "documents.list[str].0: Input should be",
        ),
        ("/classify", {"input": [[1, 2]]}, 422, "token ids are not taken: send text"),
        ("/classify", {"messages": [{"role": 1}] * 100_000}, 422, "messages.list[Turn].0.role"),
        ("/classify", {"messages": [[{"role": 1}] * 100_000]}, 422, "list[list[Turn]].0.0.role"),
        ("/classify", {"messages": [{"role": "user", "content": "x"}] * 1025}, 422, "at most 1024 items"),
        ("/get_reward", {"query": MILLION}, 422, "token ids are not taken: send text"),
        ("/get_reward", {"query": ["x"], "labels": ["x"] * 1000}, 413, "1,000 inputs, where 256"),
    ],
)
def test_row_64_validation_stops_at_the_first_wrong_values(
    server: Any, path: str, body: Any, status: int, said: str
) -> None:
    """A short answer to a million wrong values, not a million errors."""
    raw = json.dumps(body, separators=(",", ":")).encode()
    assert len(raw) <= server.service.config.max_body
    code, answer = server.ask(path, raw=raw)
    assert code == status, answer
    assert said in answer["error"]["message"]
    assert len(json.dumps(answer)) < 500


def test_row_64_other_requests_are_answered_while_a_large_body_is_parsed(
    reward: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parser is held; health and small requests go on."""
    entered, go = threading.Event(), threading.Event()
    real = module.parsed

    def held(body: bytes) -> Any:
        if len(body) > module.PARSED_AT_ONCE:
            entered.set()
            assert go.wait(20)
        return real(body)

    monkeypatch.setattr(module, "parsed", held)
    body = {"queries": "Q?", "documents": "good"}
    answers: list[int] = []
    with live_server.live(reward) as server:
        large = {**body, "more": "x" * module.PARSED_AT_ONCE}
        thread = threading.Thread(target=lambda: answers.append(server.ask("/score", large)[0]))
        thread.start()
        assert entered.wait(20)
        assert server.ask("/health")[0] == 200
        assert server.ask("/score", body)[0] == 200
        assert answers == []
        go.set()
        thread.join(20)
        assert answers == [200]
