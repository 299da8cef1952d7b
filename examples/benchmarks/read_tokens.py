"""Measure the memory and time that reading a capture response by response takes.

Every way of reading runs in a process of its own, so that its peak memory can be told. `kept` holds the
tokens of all responses in one list, `dropped` forgets each response before it reads the next, `shuffled` is
`dropped` in a random order; `nothing` only opens the capture.

    sparserm extract TruthfulQA.csv --layer 14 --run truthful
    python examples/benchmarks/read_tokens.py truthful --layer 14 --output read_tokens.json
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

WAYS = ("nothing", "dropped", "shuffled", "kept")


def read(run: Path, layer: int, way: str, most: int | None) -> dict[str, float]:
    """Read responses in one way and return their size and the time that it took."""
    import numpy as np

    from sparserm_cli.store.capture.artifact import capture_path
    from sparserm_cli.store.capture.reader import ActivationsReader

    reader = ActivationsReader(capture_path(run))
    numbers = np.arange(reader.plan.layout.responses)
    if way == "shuffled":
        numbers = np.random.default_rng(0).permutation(numbers)
    order = numbers[: 0 if way == "nothing" else most].tolist()
    begun, kept, size = time.perf_counter(), [], 0
    for response in order:
        tokens = reader.tokens(layer, response)
        size += tokens.nbytes
        if way == "kept":
            kept.append(tokens)
    return {"responses": len(order), "mebibytes": size / 2**20, "seconds": time.perf_counter() - begun}


def measured(run: Path, layer: int, way: str, most: int | None) -> dict[str, float]:
    """Read in a process of its own and return its peak memory and its figures."""
    command = [sys.executable, __file__, str(run), "--layer", str(layer), "--way", way]
    command += [] if most is None else ["--responses", str(most)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status):
        return {"exit": os.waitstatus_to_exitcode(status), "peak_mebibytes": usage.ru_maxrss / 1024}
    return {**json.loads(said), "peak_mebibytes": usage.ru_maxrss / 1024}


def main() -> None:
    """Measure every way and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="run directory with a capture of response tokens")
    parser.add_argument("--layer", type=int, default=14)
    parser.add_argument("--responses", type=int, help="read no more than this many")
    parser.add_argument("--way", choices=WAYS, help="read in this process, in one way")
    parser.add_argument("--output", type=Path, help="JSON file")
    options = parser.parse_args()
    if options.way:
        print(json.dumps(read(options.run, options.layer, options.way, options.responses)))
        return
    run, layer, most = options.run, options.layer, options.responses
    results = {way: measured(run, layer, way, most) for way in WAYS}
    for way, figures in results.items():
        print(f"{way:10}" + "  ".join(f"{name} {value:,.1f}" for name, value in figures.items()))
    if options.output:
        options.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
