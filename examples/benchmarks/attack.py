"""Measure a server under two attacks: bodies of a million wrong values, and headers that never end.

    python examples/benchmarks/attack.py --reward sparserm-run/reward [options of serve]

It starts `sparserm serve` on a free port of the loopback interface with at most 1,024 open files, attacks it,
and prints for each attack
- the longest time that `/health` took, and how often it was not answered within five seconds;
- the processor time of the server, its memory before, its largest memory and its memory afterwards, and the
  bytes that it logged;
- the answers to the attacker's requests, and whether the server still scores afterwards.
"""

import argparse
import asyncio
import http.client
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from runpy import run_path
from typing import Any

import psutil

OPEN_FILES = 1024
VALUES = 1_000_000
CONNECTIONS = 1100
LIMIT = 5.0
GOOD = {"queries": "Is it good?", "documents": "yes"}
ask = run_path(str(Path(__file__).with_name("serve.py")))["ask"]


async def post(port: int, body: bytes) -> int:
    """Post raw bytes to `/score`; return the status, or 0 if the connection was closed."""
    head = f"POST /score HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
        status = int((await reader.readline()).split()[1])
        await reader.read()
        writer.close()
    except (OSError, IndexError):
        return 0
    return status


async def wrong_values(port: int, _seconds: float) -> Counter[str]:
    """Post bodies of a million wrong values, one after the other, in three places."""
    values = b"[" + b",".join([b"1"] * VALUES) + b"]"
    bodies = [b'{"queries":"a","%s":%s}' % (name, values) for name in (b"documents", b"text_2", b"extra")]
    return Counter([str(await post(port, body)) for body in bodies])


async def half_headers(port: int, seconds: float) -> Counter[str]:
    """Hold 1,100 connections that never end the headers of a request; reopen those that the server closes."""
    outcomes: Counter[str] = Counter()
    until = time.monotonic() + seconds

    async def hold() -> None:
        while (left := until - time.monotonic()) > 0:
            try:
                reader, writer = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", port), left)
            except (OSError, TimeoutError):
                outcomes["refused"] += 1
                await asyncio.sleep(0.5)
                continue
            outcomes["opened"] += 1
            try:
                writer.write(b"POST /score HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
                await asyncio.wait_for(reader.read(), max(0.01, until - time.monotonic()))
                outcomes["ended by the server"] += 1
            except (OSError, TimeoutError):
                pass
            finally:
                writer.close()
            await asyncio.sleep(0.5)

    await asyncio.gather(*(hold() for _ in range(CONNECTIONS)))
    return outcomes


def healthy(port: int) -> float:
    """Return the seconds until `/health` answered 200, or infinity if it did not."""
    begun = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)
    try:
        connection.request("GET", "/health")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException):
        status = 0
    finally:
        connection.close()
    return time.monotonic() - begun if status == 200 else float("inf")


async def attacked(
    attack: Callable[[int, float], Awaitable[Counter[str]]],
    port: int,
    server: psutil.Process,
    log: Path,
    seconds: float,
) -> dict[str, Any]:
    """Attack, measure the server during the attack, and return the figures."""
    before, logged, spent = server.memory_info().rss, log.stat().st_size, server.cpu_times().user
    task = asyncio.ensure_future(attack(port, seconds))
    took: list[float] = []
    most = before
    begun = time.monotonic()
    while not task.done() or not took:
        took.append(await asyncio.to_thread(healthy, port))
        most = max(most, server.memory_info().rss)
        await asyncio.sleep(0.1)
    lasted = time.monotonic() - begun
    spent = server.cpu_times().user - spent
    await asyncio.sleep(2)
    answered = [seconds for seconds in took if seconds < LIMIT]
    return {
        "lasted, s": round(lasted, 1),
        "server's processor, s": round(spent, 1),
        "/health asked": len(took),
        "/health unanswered": len(took) - len(answered),
        "its longest answer, s": round(max(answered, default=float("nan")), 2),
        "what the attacker saw": dict(await task),
        "bytes logged": log.stat().st_size - logged,
        "memory before, MiB": before >> 20,
        "memory at most, MiB": most >> 20,
        "memory after, MiB": server.memory_info().rss >> 20,
        "a score afterwards": (await asyncio.wait_for(ask(port, "/score", GOOD), 60))[0],
    }


async def measure(port: int, server: psutil.Process, log: Path, seconds: float) -> None:
    """Print the figures of both attacks."""
    while (await ask(port, "/ready"))[0] != 200:
        await asyncio.sleep(0.2)
    for name, attack in (("a million wrong values", wrong_values), ("half-sent headers", half_headers)):
        print(name)
        for key, value in (await attacked(attack, port, server, log, seconds)).items():
            print(f"  {key:24} {value}")


def main() -> None:
    """Start the server, attack it, stop it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--reward", type=Path, required=True, help="fitted reward model")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long the headers are held")
    options, others = parser.parse_known_args()
    command = [sys.executable, "-m", "sparserm_cli", "serve", "--reward", str(options.reward), "--port", "0"]
    environment = {name: value for name, value in os.environ.items() if name != "SPARSERM_API_KEY"}
    limited = ["bash", "-c", f'ulimit -n {OPEN_FILES}; exec "$@"', "serve", *command, *others, "--json"]
    with (
        tempfile.NamedTemporaryFile() as log,
        subprocess.Popen(limited, stdout=subprocess.PIPE, stderr=log, text=True, env=environment) as server,
    ):
        assert server.stdout is not None  # noqa: S101
        port = int(json.loads(server.stdout.readline())["url"].rpartition(":")[2])
        try:
            asyncio.run(measure(port, psutil.Process(server.pid), Path(log.name), options.seconds))
        finally:
            server.kill()


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    main()
