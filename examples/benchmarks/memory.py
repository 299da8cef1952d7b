"""Compare the peak memory of extract and encode on some data with that on eight times the data.

Every command is a process of its own; units are small, so that both data sets have several.

    python examples/benchmarks/memory.py hh-rlhf-harmless-base-test.jsonl.gz --pairs 100 --output memory.json
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

TIMES = 8
SAE = Path(__file__).parents[1] / "sae" / "smollm2-135m"


def peak_mebibytes(*words: str) -> float:
    """Run a command of sparserm and return the most memory it had resident."""
    process = subprocess.Popen(
        [sys.executable, "-m", "sparserm_cli", *words, "--quiet"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status):
        sys.exit(f"sparserm {' '.join(words)} failed:\n{errors}")
    return usage.ru_maxrss / 1024


def measured(data: Path, pairs: int, run: Path, unit_tokens: int) -> dict[str, float]:
    """Return the peaks of both stages on so many pairs."""
    place = ("--run", str(run))
    asked = ("--layer", "14", "--limit", str(pairs), "--unit-tokens", str(unit_tokens))
    rows = ("--on-bad-row", "reject")
    return {
        "extract": peak_mebibytes("extract", str(data), *asked, *rows, *place),
        "encode": peak_mebibytes("encode", "--sae", str(SAE), *place),
    }


def main() -> None:
    """Measure both sizes and print peaks and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="preference pairs")
    parser.add_argument("--pairs", type=int, default=100, help="rows of the smaller data")
    parser.add_argument("--unit-tokens", type=int, default=4096)
    parser.add_argument("--output", type=Path, help="JSON file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        found = [
            measured(options.data, pairs, Path(scratch) / str(pairs), options.unit_tokens)
            for pairs in (options.pairs, TIMES * options.pairs)
        ]
    print(f"peak MiB    {options.pairs:>8} pairs {TIMES * options.pairs:>8} pairs   ratio")
    for stage, small in found[0].items():
        large = found[1][stage]
        print(f"{stage:12}{small:>14.0f}{large:>15.0f}{large / small:>8.2f}")
    if options.output:
        report = {"pairs": options.pairs, "times": TIMES, "small": found[0], "large": found[1]}
        options.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
