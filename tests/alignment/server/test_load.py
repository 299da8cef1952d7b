"""Four times as many requests as can be managed: each gets 200 or 503, none hangs, memory is bounded."""

import asyncio
import threading
import time
from collections import Counter
from pathlib import Path
from runpy import run_path
from typing import Any

import numpy as np
import psutil
import pytest
from helpers import live_server

from sparserm_cli.models.reward_model import Rewards

pytestmark = pytest.mark.slow

SECONDS = 3.0
CAPACITY = 25
"""Responses a second that the model below manages."""
MIB = 1 << 20
ask = run_path(str(Path(__file__).parents[3] / "examples" / "benchmarks" / "serve.py"))["ask"]


def slow(rows: Any, _by_token: bool) -> Rewards:
    """Score at a fixed rate."""
    time.sleep(len(rows) / CAPACITY)
    return Rewards(np.ones(len(rows), np.float32), np.zeros(len(rows), np.float32))


async def overload(server: Any) -> tuple[list[tuple[int, float]], list[tuple[int, float]], int]:
    """Post at four times the capacity; return answers, those of health and readiness, most tokens waiting."""
    port, tasks, probes, waiting = int(server.url.rpartition(":")[2]), [], [], 0
    begun = time.monotonic()
    for number in range(int(4 * CAPACITY * SECONDS)):
        await asyncio.sleep(max(0.0, begun + number / (4 * CAPACITY) - time.monotonic()))
        body = {"queries": f"Question {number}?", "documents": "good"}
        tasks.append(asyncio.create_task(ask(port, "/score", body)))
        if number % CAPACITY == 0:
            probes += [
                asyncio.create_task(ask(port, "/health")),
                asyncio.create_task(ask(port, "/ready")),
            ]
        waiting = max(waiting, server.service.waiting)
    answers = await asyncio.wait_for(asyncio.gather(*tasks), 60)
    return list(answers), list(await asyncio.gather(*probes)), waiting


def test_row_43_four_times_the_capacity(reward: Path) -> None:
    """For three seconds, from another thread of this process."""
    most, outcomes = 1000, []
    with live_server.live(reward, max_waiting=most) as server:
        server.service._batches._compute = slow
        before = psutil.Process().memory_info().rss
        thread = threading.Thread(target=lambda: outcomes.append(asyncio.run(overload(server))))
        thread.start()
        thread.join(90)
        after = psutil.Process().memory_info().rss
        ((answers, probes, waiting),) = outcomes
        statuses = Counter(status for status, _ in answers)
        # The last answers are counted off just after they were sent.
        given_up = time.monotonic() + 20
        while server.service.working and time.monotonic() < given_up:
            time.sleep(0.01)
        assert server.service.working == server.service.waiting == 0
    assert set(statuses) == {200, 503}
    assert 0.5 * CAPACITY * SECONDS < statuses[200] < 2.5 * CAPACITY * SECONDS
    assert sum(statuses.values()) == 4 * CAPACITY * SECONDS
    assert waiting <= most
    # What waits is at most a second and a half of work, so nobody waits much longer than that.
    assert max(taken for _, taken in answers) < 10
    assert {status for status, _ in probes} == {200}
    assert after - before < 64 * MIB
