"""Compare the captures of one process and of two workers, one of which is killed: their digests are equal.

    python examples/benchmarks/workers.py --data pairs.jsonl --limit 300 --output workers.json

Rank 1 is sent SIGKILL while it works on its second unit, then started again, as a scheduler would. Every
process has `--threads` threads, since the division of a product among threads may decide its last bits.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import captures

from sparserm_cli.store.capture.artifact import capture_path
from sparserm_cli.store.units.unit_store import INNER


def start(options: argparse.Namespace, run: Path, *more: str) -> subprocess.Popen[str]:
    """Start `sparserm extract`."""
    return subprocess.Popen(
        [*captures.extract(options, run), *more],
        env={**os.environ, "OMP_NUM_THREADS": str(options.threads)},
        stdout=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for a process and return what it printed."""
    out, _ = process.communicate()
    if process.returncode:
        sys.exit(f"ended with {process.returncode}: {' '.join(process.args)}")
    return json.loads(out)


def names(run: Path, folder: str) -> list[str]:
    """Return the names of receipts or of marks of started units."""
    return [path.name for path in (capture_path(run) / INNER / folder).glob("*")]


def kill_in_second_unit(run: Path, process: subprocess.Popen[str]) -> int:
    """Send SIGKILL as soon as rank 1 of 2 has begun its second unit, unit 3; return the receipts then."""
    while not any(name.startswith("00003.") for name in names(run, "started")):
        if process.poll() is not None:
            sys.exit("rank 1 was done before it could be killed: give more --limit or fewer --unit-tokens")
        time.sleep(0.05)
    time.sleep(0.5)  # so that the kill falls into the forward pass
    process.kill()
    if process.wait() != -signal.SIGKILL:
        sys.exit("rank 1 was done before it could be killed: give more --limit or fewer --unit-tokens")
    return len(names(run, "receipts"))


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Capture alone, then by two workers, and verify both."""
    begun = time.perf_counter()
    alone = finish(start(options, folder / "alone"))
    alone_seconds = time.perf_counter() - begun
    begun, run = time.perf_counter(), folder / "workers"
    first, second = start(options, run, "--worker", "0/2"), start(options, run, "--worker", "1/2")
    receipts = kill_in_second_unit(run, second)
    again = start(options, run, "--worker", "1/2")
    outputs = [finish(first), finish(again)]
    workers_seconds = time.perf_counter() - begun
    for each in ("alone", "workers"):
        verify = [sys.executable, "-m", "sparserm_cli", "verify", "--deep", "--run", str(folder / each)]
        subprocess.run(verify, check=True, stdout=subprocess.DEVNULL)
    digest = next(output["digest"] for output in outputs if output["state"] == "complete")
    return {
        "pairs": alone["pairs"],
        "tokens": alone["tokens"],
        "units": alone["units"],
        "alone": {"digest": alone["digest"], "seconds": alone_seconds},
        "workers": {"digest": digest, "seconds": workers_seconds, "receipts_at_the_kill": receipts},
        "units_computed": {
            "rank 0": outputs[0]["units_computed"],
            "rank 1 again": outputs[1]["units_computed"],
        },
    }


def main() -> None:
    """Measure, print and write JSON; end with code 1 if the digests differ."""
    parser = captures.parser(__doc__, limit=300, unit_tokens=2048)
    parser.add_argument("--threads", type=int, default=1, help="threads of each process")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(options, Path(folder))
    print(f"{figures['pairs']} pairs, {figures['tokens']:,} tokens in {figures['units']} units")
    for name in ("alone", "workers"):
        print(f"{name:<9}{figures[name]['seconds']:>8.1f} s  {figures[name]['digest']}")
    computed = " and ".join(f"{count} by {who}" for who, count in figures["units_computed"].items())
    print(f"killed with {figures['workers']['receipts_at_the_kill']} units done; in the end {computed}")
    captures.write(figures, options.output)
    sys.exit(figures["alone"]["digest"] != figures["workers"]["digest"])


if __name__ == "__main__":
    main()
