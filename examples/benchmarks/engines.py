"""Measure the cost of Ray: units of `extract` and `encode` by one actor against a serial run, in turn.

    python examples/benchmarks/engines.py --data pairs.jsonl --limit 100 --output engines.json

Both have `--threads` threads. The measured time runs from the receipt of the first unit to that of the last,
per unit. It leaves out the start of Ray and the loading of the model, which both do. (A script that imports
Ray must not itself be called ray.py.)
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import captures

from sparserm_cli.store.capture.artifact import capture_path
from sparserm_cli.store.features.artifact import features_path
from sparserm_cli.store.units.unit_store import INNER

SHIPPED = Path(__file__).parents[1] / "sae" / "smollm2-135m"
BOUND = 1.10
STORES = {"extract": capture_path, "encode": features_path}


def stage(name: str, run: Path, engine: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run a stage in a process of its own; return its digest and times."""
    command = captures.extract(options, run)
    if name == "encode":
        command = [sys.executable, "-m", "sparserm_cli", name, "--run", str(run), "--json", "--quiet"]
        command += ["--sae", str(options.sae)]
    # An actor that takes all CPUs is the only actor.
    command += ["--engine", engine, "--actor-cpus", str(os.cpu_count())]
    env = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    begun = time.perf_counter()
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
    took = time.perf_counter() - begun
    receipts = sorted(path.stat().st_mtime_ns for path in (STORES[name](run) / INNER / "receipts").iterdir())
    if len(receipts) < 3:
        sys.exit(f"only {len(receipts)} units: give more --limit or fewer --unit-tokens")
    return {
        "digest": json.loads(done.stdout)["digest"],
        "units": len(receipts),
        "seconds": took,
        "unit_seconds": (receipts[-1] - receipts[0]) / 1e9 / (len(receipts) - 1),
    }


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run both stages by both engines, in turn."""
    figures: dict[str, Any] = {name: {"serial": [], "ray": []} for name in STORES}
    for number in range(options.rounds):
        for engine in ("serial", "ray") if number % 2 == 0 else ("ray", "serial"):
            for name in STORES:
                figures[name][engine].append(stage(name, folder / f"{engine}-{number}", engine, options))
    for name in STORES:
        runs = figures[name]["serial"] + figures[name]["ray"]
        figures[name]["equal"] = len({run["digest"] for run in runs}) == 1
        seconds = {
            engine: statistics.median(run["unit_seconds"] for run in figures[name][engine])
            for engine in ("serial", "ray")
        }
        figures[name]["ratio"] = seconds["ray"] / seconds["serial"]
    return figures


def show(figures: dict[str, Any]) -> None:
    """Print one table per stage."""
    for name in STORES:
        of_store = figures[name]
        verdict = "equal" if of_store["equal"] else "DIFFER"
        print(f"{name}, {of_store['serial'][0]['units']} units, digests {verdict}")
        for engine in ("serial", "ray"):
            times = [run["unit_seconds"] for run in of_store[engine]]
            whole = statistics.median(run["seconds"] for run in of_store[engine])
            spread = f"({min(times):.3f} to {max(times):.3f})"
            print(f"  {engine:<8}{statistics.median(times):>8.3f} s a unit {spread}, in all {whole:.1f} s")
        print(f"  ray takes {of_store['ratio']:.3f} times as long per unit, bound {BOUND:.2f}")


def main() -> None:
    """Measure, print and write JSON; end with code 1 if digests differ."""
    parser = captures.parser(__doc__, limit=100, unit_tokens=512)
    parser.add_argument("--sae", type=Path, default=SHIPPED)
    parser.add_argument("--threads", type=int, default=1, help="threads of each process")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each engine, taken in turn")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(options, Path(folder))
    show(figures)
    captures.write(figures, options.output)
    sys.exit(not all(figures[name]["equal"] for name in STORES))


if __name__ == "__main__":
    main()
