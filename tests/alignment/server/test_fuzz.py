"""Requests that a fuzzer makes up from the server's own OpenAPI description: none may end in a 500.

`SPARSERM_FUZZ_REQUESTS=10000 bash tests/run.sh tests/alignment/server/test_fuzz.py -s` sends ten thousand.
"""

import collections
import json
import logging
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from helpers import live_server
from hypothesis import HealthCheck, Phase, given, settings

pytestmark = pytest.mark.slow

REQUESTS = int(os.environ.get("SPARSERM_FUZZ_REQUESTS", "300"))
KEY = "key-that-no-answer-repeats"
SCORES = {
    "/classify",
    "/v1/classify",
    "/v1/embeddings",
    "/score",
    "/v1/score",
    "/get_reward",
    "/predict",
    "/rerank",
}
EXPECTED = {200, 400, 401, 404, 405, 408, 413, 422, 503, 504}


def send(operation: Any, mode: Any, count: int, url: str, seen: collections.Counter[int]) -> None:
    """Send so many requests to one operation and count their statuses."""

    @settings(
        max_examples=count,
        phases=[Phase.generate],
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def run(case: Any) -> None:
        if (case.headers or {}).get("Authorization") is None:
            case.headers = {**(case.headers or {}), "Authorization": f"Bearer {KEY}"}
        answer = case.call(base_url=url, timeout=60)
        seen[answer.status_code] += 1
        assert answer.status_code in EXPECTED, (operation.label, case.body, answer.text)
        assert KEY not in answer.text
        if answer.status_code >= 400:
            assert json.loads(answer.content)["error"]["code"] == answer.status_code

    run()


@pytest.mark.filterwarnings("ignore")  # other people's code
def test_no_made_up_request_ends_in_a_500(
    reward: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Valid and invalid ones, on every route; the server answers afterwards, and its log has no key."""
    if find_spec("schemathesis") is None:
        pytest.skip("schemathesis is not installed")
    import schemathesis
    from schemathesis.generation import GenerationMode

    seen: collections.Counter[int] = collections.Counter()
    with caplog.at_level(logging.DEBUG), live_server.live(reward, key=KEY) as server:
        described = server.ask("/openapi.json")[1]
        schema = schemathesis.openapi.from_dict(described)
        operations = [result.ok() for result in schema.get_all_operations()]
        posts = [operation for operation in operations if operation.path in SCORES]
        assert {operation.path for operation in posts} == SCORES
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            for operation in posts:
                send(operation, mode, REQUESTS // (2 * len(posts)), server.url, seen)
        assert server.ask("/score", {"queries": "Q?", "documents": "good"})[0] == 200
    assert sum(seen.values()) >= 0.9 * REQUESTS
    assert seen[200]
    assert KEY not in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    with capsys.disabled():
        print(f"\n{sum(seen.values()):,} fuzzed requests: {dict(sorted(seen.items()))}")  # noqa: T201
