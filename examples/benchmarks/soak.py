"""Run a server under mixed traffic for a long time, and check its memory, scores and answers.

    python examples/benchmarks/soak.py --reward sparserm-run/reward --minutes 30 [options of serve]

It starts `sparserm serve` on a free port of the loopback interface, measures how many single requests a
second it manages, and sends `--factor` times as many for `--minutes`: of twenty, fourteen are valid (in the
shapes of several clients), three are wrong (no JSON, token ids, too many inputs, an empty response, a body of
wrong values) and three are given up by the client (in the headers, in the body, before the answer). In
addition come bursts like those of DPO: 64 pairs at once every ten seconds. Scores are compared with those of
the library in this process.

It prints what was sent and answered, how many scores were wrong, the server's memory for each minute, and the
slope of a straight line through these minutes after the warm-up with its standard error. It ends with code 1
if a score was wrong, if an answer was neither 200 nor 4xx nor 503, or if memory grew: by more than two
standard errors and more than `--slope` MiB per minute.
"""

import argparse
import asyncio
import itertools
import json
import os
import random
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from runpy import run_path
from typing import Any

import numpy as np
import psutil

BURST, BURST_SECONDS = 64, 10.0
RESPONSES = (
    "It turns the wheel, which grinds the grain.",
    "No idea.",
    "Bread is sold before the bells ring.",
)
PROMPTS = 48
words = run_path(str(Path(__file__).with_name("serve.py")))["words"]


class Soak:
    """Traffic to one server, and counts of its answers.

    Args:
        port: port of the server.
        prompts: prompts of the requests.
        expected: score of each of RESPONSES to each prompt.
        tolerance: largest difference of a score that counts as right.

    """

    def __init__(
        self, port: int, prompts: Sequence[str], expected: np.ndarray, tolerance: float, seed: int
    ) -> None:
        self.port, self.prompts, self.expected, self.tolerance = port, prompts, expected, tolerance
        self.random = random.Random(seed)
        self.statuses: dict[str, Counter[int]] = {}
        self.scores = self.wrong = 0
        self.largest_error = 0.0
        self.longest: dict[str, float] = {}
        values = b"[" + b",".join([b"null"] * 400_000) + b"]"
        self.million = b'{"queries":"a","documents":%s}' % values

    async def valid(self, way: str) -> None:
        """Request scores in the shape of one protocol, and compare them with the expected ones."""
        row = self.random.randrange(len(self.prompts))
        path, body, read = self._request(way, self.prompts[row])
        status, answer = await self._ask(way, path, json.dumps(body).encode())
        if status != 200:
            return
        scores = np.array(read(json.loads(answer)), float)
        errors = np.abs(scores - self.expected[row, : len(scores)])
        self.scores += len(scores)
        self.wrong += int(np.sum(~(errors <= self.tolerance)))
        self.largest_error = max(self.largest_error, float(errors.max()))

    def _request(self, way: str, prompt: str) -> tuple[str, Any, Callable[[Any], list[float]]]:
        """Return the path and body of a request, and the function that reads scores from its answer."""
        count = 1 if way in {"single", "classify"} else len(RESPONSES)
        texts = list(RESPONSES[:count])
        if way == "classify":
            turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": texts[0]}]
            return "/classify", {"messages": turns}, lambda answer: [answer["data"][0]["probs"][0]]
        if way == "rerank":
            body = {"query": prompt, "texts": texts, "raw_scores": True}
            order = lambda answer: sorted(answer, key=lambda entry: entry["index"])  # noqa: E731
            return "/rerank", body, lambda answer: [entry["score"] for entry in order(answer)]
        if way == "pair":
            texts = texts[:2]
        body = {"queries": prompt, "documents": texts}
        return "/score", body, lambda answer: [entry["score"] for entry in answer["data"]]

    async def wrong_request(self, way: str) -> None:
        """Send a request that must be refused or answered without a score."""
        bodies = {
            "no JSON": b'{"queries": "a", ',
            "token ids": b'{"queries": "a", "documents": [1, 2, 3]}',
            "too many": json.dumps({"queries": "a", "documents": ["x"] * 1000}).encode(),
            "empty response": b'{"queries": "a", "documents": [""]}',
            "a million wrong": self.million,
        }
        status, answer = await self._ask(way, "/score", bodies[way])
        if status == 200 and (way != "empty response" or json.loads(answer)["data"][0]["score"] is not None):
            self.wrong += 1

    async def given_up(self, way: str) -> None:
        """Begin a request and close the connection."""
        body = json.dumps({"queries": self.random.choice(self.prompts), "documents": RESPONSES}).encode()
        head = self._head("/score", len(body))
        data = {"in headers": head[:40], "in body": head + body[: len(body) // 2], "waiting": head + body}[
            way
        ]
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.write(data)
            await writer.drain()
            await asyncio.sleep(self.random.random() * 0.2)
            writer.transport.abort()
        except OSError:
            pass
        self.statuses.setdefault(f"given up {way}", Counter())[0] += 1

    async def _ask(self, way: str, path: str, body: bytes) -> tuple[int, bytes]:
        """Post, and count the answer; status -1 means that the connection was closed."""
        begun, status, answer = time.monotonic(), -1, b""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            try:
                writer.write(self._head(path, len(body)) + body)
                status = int((await reader.readline()).split()[1])
                answer = (await reader.read()).partition(b"\r\n\r\n")[2]
            finally:
                writer.close()
        except (OSError, IndexError):
            pass
        self.statuses.setdefault(way, Counter())[status] += 1
        self.longest[way] = max(self.longest.get(way, 0.0), time.monotonic() - begun)
        return status, answer

    def _head(self, path: str, length: int) -> bytes:
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n"
        return f"{head}Content-Type: application/json\r\n\r\n".encode()

    def next_request(self) -> Awaitable[None]:
        """Send one request of the mixture."""
        draw = self.random.random()
        if draw < 0.70:
            return self.valid(self.random.choices(("single", "classify", "rerank"), (8, 3, 3))[0])
        if draw < 0.85:
            ways = ("no JSON", "token ids", "too many", "empty response", "a million wrong")
            return self.wrong_request(self.random.choices(ways, (30, 30, 20, 30, 1))[0])
        return self.given_up(self.random.choice(("in headers", "in body", "waiting")))


async def capacity(soak: Soak, seconds: float) -> float:
    """Return the number of single requests per second that eight clients get answered."""
    until, done = time.monotonic() + seconds, itertools.count()

    async def client() -> None:
        while time.monotonic() < until:
            await soak.valid("single")
            next(done)

    begun = time.monotonic()
    await asyncio.gather(*(client() for _ in range(8)))
    return next(done) / (time.monotonic() - begun)


async def traffic(soak: Soak, rate: float, minutes: float, server: psutil.Process) -> list[float]:
    """Send for the given time; return the server's memory in MiB, once per second."""
    begun, tasks, memory = time.monotonic(), set(), []
    next_burst = BURST_SECONDS
    for number in itertools.count():
        now = time.monotonic() - begun
        if now >= 60 * minutes:
            break
        if number / rate > now:
            await asyncio.sleep(number / rate - now)
        requests = [soak.next_request()]
        if now >= next_burst:
            requests += [soak.valid("pair") for _ in range(BURST)]
            next_burst += BURST_SECONDS
        for request in requests:
            task = asyncio.ensure_future(request)
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        if now >= len(memory):
            memory.append(server.memory_info().rss / 2**20)
    await asyncio.wait_for(asyncio.gather(*tasks), 180)
    return memory


def slope(minutes: Sequence[float]) -> tuple[float, float]:
    """Return the slope of a least-squares line through one value per minute, and its standard error."""
    y, x = np.array(minutes), np.arange(len(minutes), dtype=float)
    x -= x.mean()
    steepness = float(x @ y / (x @ x))
    rest = y - y.mean() - steepness * x
    return steepness, float(np.sqrt(rest @ rest / max(1, len(y) - 2) / (x @ x)))


async def measure(options: argparse.Namespace, soak: Soak, server: psutil.Process) -> int:
    """Wait for the server, send, and print the figures; return the exit code."""
    while (await soak._ask("ready", "/score", b'{"queries":"a","documents":"b"}'))[0] != 200:  # noqa: SLF001
        await asyncio.sleep(0.2)
    soak.statuses.clear()
    able = await capacity(soak, 10)
    soak.statuses.clear()
    print(f"{able:.1f} single requests/s managed; {options.factor * able:.1f} requests/s sent", flush=True)
    memory = await traffic(soak, options.factor * able, options.minutes, server)
    for way, counts in sorted(soak.statuses.items()):
        took = f"at most {soak.longest[way]:.2f} s" if way in soak.longest else ""
        print(f"  {way:22} {sum(counts.values()):8,}  {dict(sorted(counts.items()))}  {took}")
    statuses = sum(soak.statuses.values(), Counter())
    undue = {
        status: count
        for status, count in statuses.items()
        if status and status not in {200, 503} and not 400 <= status < 500
    }
    by_minute = [float(np.mean(memory[start : start + 60])) for start in range(0, len(memory), 60)]
    by_minute = by_minute[: max(1, int(options.minutes))]
    print("memory by minute, MiB   ", " ".join(f"{mebibytes:.1f}" for mebibytes in by_minute))
    warm = by_minute[int(options.warm_up) :]
    grown, error = slope(warm) if len(warm) > 2 else (float("nan"), float("nan"))
    print(f"slope after {options.warm_up:g} minutes  {grown:+.3f} +- {error:.3f} MiB a minute")
    print(
        f"scores compared         {soak.scores:,}, wrong {soak.wrong}, largest error {soak.largest_error:.2g}"
    )
    print(f"undue answers           {undue or 'none'}")
    return int(bool(soak.wrong or undue or (grown > options.slope and grown > 2 * error)))


def main() -> int:
    """Compute the scores, start the server, send the traffic and stop the server."""
    from sparserm_cli import RewardModel

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--reward", type=Path, required=True, help="fitted reward model")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--factor", type=float, default=1.5, help="requests sent for each that is managed")
    parser.add_argument("--warm-up", type=float, default=10.0, help="minutes left out of the slope")
    parser.add_argument("--slope", type=float, default=0.2, help="MiB a minute that memory may grow")
    parser.add_argument("--tolerance", type=float, default=1e-3, help="in standard deviations of scores")
    parser.add_argument("--prompt-words", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options, others = parser.parse_known_args()
    model = RewardModel.load(options.reward)
    prompts = [words(options.prompt_words, 7 * number) for number in range(PROMPTS)]
    flat = [prompt for prompt in prompts for _ in RESPONSES]
    expected = model.score(flat, list(RESPONSES) * PROMPTS).reshape(PROMPTS, len(RESPONSES))
    tolerance = options.tolerance * model.config.score_std
    del model
    command = [sys.executable, "-m", "sparserm_cli", "serve", "--reward", str(options.reward), "--port", "0"]
    environment = {name: value for name, value in os.environ.items() if name != "SPARSERM_API_KEY"}
    with subprocess.Popen(
        [*command, *others, "--json"], stdout=subprocess.PIPE, text=True, env=environment
    ) as server:
        assert server.stdout is not None  # noqa: S101
        port = int(json.loads(server.stdout.readline())["url"].rpartition(":")[2])
        soak = Soak(port, prompts, expected, tolerance, options.seed)
        try:
            return asyncio.run(measure(options, soak, psutil.Process(server.pid)))
        finally:
            server.terminate()


if __name__ == "__main__":
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(16384, limit), limit))
    sys.exit(main())
