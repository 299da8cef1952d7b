"""What `examples/benchmarks/soak.py` does for half an hour, for a moment: it sees what goes wrong."""

import asyncio
from pathlib import Path
from runpy import run_path
from typing import Any

import numpy as np
import pytest
from helpers import live_server

from sparserm_cli import RewardModel

soak = run_path(str(Path(__file__).parents[3] / "examples" / "benchmarks" / "soak.py"))
PROMPTS = ["Why?", "How?"]
VALID = ("single", "classify", "rerank", "pair")
WRONG = {"no JSON": 400, "token ids": 422, "too many": 413, "empty response": 200, "a million wrong": 413}
GIVEN_UP = ("in headers", "in body", "waiting")


@pytest.fixture(scope="module")
def expected(model: RewardModel) -> np.ndarray:
    """Give the library's scores."""
    flat = [prompt for prompt in PROMPTS for _ in soak["RESPONSES"]]
    return model.score(flat, list(soak["RESPONSES"]) * len(PROMPTS)).reshape(len(PROMPTS), -1)


async def everything(traffic: Any) -> None:
    """Send each kind of request once."""
    for way in VALID:
        await traffic.valid(way)
    for way in WRONG:
        await traffic.wrong_request(way)
    for way in GIVEN_UP:
        await traffic.given_up(way)


def test_row_74_mixed_traffic_is_answered_rightly(reward: Path, expected: np.ndarray) -> None:
    """Every score is right, every wrong request is refused, and the server is there afterwards."""
    with live_server.live(reward) as server:
        port = int(server.url.rpartition(":")[2])
        traffic = soak["Soak"](port, PROMPTS, expected, 1e-4, 0)
        asyncio.run(everything(traffic))
        assert traffic.statuses == {
            **{way: {200: 1} for way in VALID},
            **{way: {status: 1} for way, status in WRONG.items()},
            **{f"given up {way}": {0: 1} for way in GIVEN_UP},
        }
        assert (traffic.scores, traffic.wrong) == (1 + 1 + 3 + 2, 0)
        assert server.ask("/score", {"queries": "Q?", "documents": "good"})[0] == 200


def test_row_74_a_wrong_score_is_seen(reward: Path, expected: np.ndarray) -> None:
    """The comparison can fail: by a score that is off, or is none."""
    with live_server.live(reward) as server:
        port = int(server.url.rpartition(":")[2])
        traffic = soak["Soak"](port, PROMPTS, expected + 1e-3, 1e-4, 0)
        asyncio.run(traffic.valid("rerank"))
        assert (traffic.scores, traffic.wrong) == (3, 3)
    with live_server.live(reward, abstain=1e-6) as server:
        port = int(server.url.rpartition(":")[2])
        traffic = soak["Soak"](port, PROMPTS, expected, 1e-4, 0)
        asyncio.run(traffic.valid("single"))
        assert (traffic.scores, traffic.wrong) == (1, 1)


def test_a_slope_has_a_standard_error() -> None:
    """A hand-checked line: (1, 2, 2, 3) has slope 0.6, and squared residuals of 0.2."""
    steepness, error = soak["slope"]([1.0, 2.0, 2.0, 3.0])
    assert steepness == pytest.approx(0.6)
    assert error == pytest.approx((0.2 / 2 / 5) ** 0.5)
    assert soak["slope"]([5.0, 5.0, 5.0]) == (0.0, 0.0)
