"""Measure a server's speed: a group of responses to one prompt, together and one by one, and overload.

    python examples/benchmarks/serve.py --reward sparserm-run/reward [options of serve]

It starts `sparserm serve` on a free port of the loopback interface and prints
- responses per second for 16 responses to one prompt, sent as one request after the other, as 16 requests at
  once and as one request; each time to a prompt that the server has not seen;
- the answers to requests at four times the rate that the server manages: how many get 200 and 503 and how
  long they take, the answers of health and readiness, and the server's memory before and after.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

GROUP = 16
TEXT = (
    "the river runs past an old mill and every morning somebody opens the gate so that water can turn the "
    "wheel which grinds the grain for bread that is sold in the small town nearby before the bells ring"
)
WORDS = TEXT.split()


def words(count: int, start: int) -> str:
    """Return a text of `count` words; another start gives other words."""
    return " ".join([f"number {start}", *(WORDS[(start + n) % len(WORDS)] for n in range(count))])


async def ask(port: int, path: str, body: Any = None) -> tuple[int, float]:
    """Send one request over a connection of its own; return status and seconds."""
    begun = time.monotonic()
    data = b"" if body is None else json.dumps(body).encode()
    head = f"{'GET' if body is None else 'POST'} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(head.encode() + data)
        status = int((await reader.readline()).split()[1])
        await reader.read()
    finally:
        writer.close()
    return status, time.monotonic() - begun


async def group(port: int, way: str, size: tuple[int, int], start: int) -> float:
    """Score one group and return its responses per second."""
    prompt, responses = words(size[0], start), [words(size[1], start + n) for n in range(GROUP)]
    bodies = [{"queries": prompt, "documents": response} for response in responses]
    begun = time.monotonic()
    if way == "one request":
        answers = [await ask(port, "/score", {"queries": prompt, "documents": responses})]
    elif way == "16 at once":
        answers = list(await asyncio.gather(*(ask(port, "/score", body) for body in bodies)))
    else:
        answers = [await ask(port, "/score", body) for body in bodies]
    seconds = time.monotonic() - begun
    if {status for status, _ in answers} != {200}:
        sys.exit(f"expected 200 for all, found {answers}")
    return GROUP / seconds


async def overload(
    port: int, server: psutil.Process, size: tuple[int, int], seconds: float
) -> dict[str, Any]:
    """Post at four times the rate at which single requests were answered."""
    begun, done = time.monotonic(), 0
    while time.monotonic() - begun < seconds / 4:
        answers = await asyncio.gather(
            *(
                ask(port, "/score", {"queries": words(size[0], n), "documents": "x"})
                for n in range(done, done + 8)
            )
        )
        done += sum(status == 200 for status, _ in answers)
    capacity = done / (time.monotonic() - begun)
    before, most = server.memory_info().rss, 0
    tasks, probes = [], []
    begun = time.monotonic()
    for number in range(int(4 * capacity * seconds)):
        await asyncio.sleep(max(0.0, begun + number / (4 * capacity) - time.monotonic()))
        body = {"queries": words(size[0], 10_000 + number), "documents": "x"}
        tasks.append(asyncio.create_task(ask(port, "/score", body)))
        if number % max(1, int(capacity)) == 0:
            probes += [
                asyncio.create_task(ask(port, "/health")),
                asyncio.create_task(ask(port, "/ready")),
            ]
            most = max(most, server.memory_info().rss)
    answers = await asyncio.wait_for(asyncio.gather(*tasks), 120)
    probed = await asyncio.gather(*probes)
    slow = {
        status: max(taken for other, taken in answers if other == status)
        for status in {status for status, _ in answers}
    }
    return {
        "capacity, requests/s": round(capacity, 1),
        "requests sent": len(answers),
        "requests/s": round(len(answers) / (time.monotonic() - begun), 1),
        "statuses": dict(sorted(Counter(status for status, _ in answers).items())),
        "longest, s": {status: round(taken, 2) for status, taken in sorted(slow.items())},
        "health and ready": dict(Counter(status for status, _ in probed)),
        "their longest, s": round(max(taken for _, taken in probed), 2),
        "memory before, MiB": before >> 20,
        "memory at most, MiB": most >> 20,
        "memory after, MiB": server.memory_info().rss >> 20,
    }


async def measure(port: int, server: psutil.Process, options: argparse.Namespace) -> None:
    """Measure both and print the figures."""
    while (await ask(port, "/ready"))[0] != 200:
        await asyncio.sleep(0.2)
    size = (options.prompt_words, options.response_words)
    start = 0
    rates: dict[str, list[float]] = {}
    for _ in range(options.runs):
        for way in ("one by one", "16 at once", "one request"):
            start += 1000
            rates.setdefault(way, []).append(await group(port, way, size, start))
    for way, repeats in rates.items():
        ratio = statistics.median(repeats) / statistics.median(rates["one by one"])
        spread = f"{min(repeats):.1f} to {max(repeats):.1f}"
        middle = f"{statistics.median(repeats):8.1f}"
        print(f"{way:12} {middle} responses/s ({spread})  {ratio:5.1f} times one by one")
    if options.overload_seconds:
        for name, value in (await overload(port, server, size, options.overload_seconds)).items():
            print(f"{name:22} {value}")


def main() -> None:
    """Start the server, measure it and stop it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--reward", type=Path, required=True, help="fitted reward model")
    parser.add_argument("--prompt-words", type=int, default=400)
    parser.add_argument("--response-words", type=int, default=40)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--overload-seconds", type=float, default=20.0)
    options, others = parser.parse_known_args()
    command = [sys.executable, "-m", "sparserm_cli", "serve", "--reward", str(options.reward), "--port", "0"]
    command += others
    environment = {name: value for name, value in os.environ.items() if name != "SPARSERM_API_KEY"}
    with subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stdout is not None  # noqa: S101
        port = int(json.loads(server.stdout.readline())["url"].rpartition(":")[2])
        try:
            asyncio.run(measure(port, psutil.Process(server.pid), options))
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
