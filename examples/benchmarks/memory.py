"""Compare the peak memory of extract and encode on some data with that on eight times the data.

The smaller data are every eighth row of the larger ones by length, from the longest on, since the longest row
is what one batch has to hold. Every command is a process of its own; units are small, so that both data sets
have several.

    python examples/benchmarks/memory.py hh-rlhf-harmless-base-test.jsonl.gz --pairs 100 --output memory.json
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

TIMES = 8
SAE = Path(__file__).parents[1] / "sae" / "smollm2-135m"


def peak_mebibytes(*words: str) -> float:
    """Run a command of sparserm and return its peak resident memory in MiB."""
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


def rows_of(data: Path, most: int) -> list[dict[str, Any]]:
    """Return the first `most` pairs as rows with plain texts."""
    from sparserm_cli.data.example import CHOSEN, REJECTED, plain_prompt
    from sparserm_cli.data.reader import Reader

    rows = []
    for example in Reader(data, purpose="pairs", limit=most, on_bad_row="reject"):
        row: dict[str, Any] = {"prompt": plain_prompt(example.prompt)}
        for side, key in ((CHOSEN, "chosen"), (REJECTED, "rejected")):
            row[key] = [
                t for t, of_side in zip(example.responses, example.sides, strict=True) if of_side == side
            ]
        rows.append(row)
    return rows


def measured(data: Path, run: Path, unit_tokens: int) -> dict[str, float]:
    """Return the peaks of both stages."""
    place = ("--run", str(run))
    options_of_run = ("--layer", "14", "--unit-tokens", str(unit_tokens), "--on-bad-row", "reject")
    return {
        "extract": peak_mebibytes("extract", str(data), *options_of_run, *place),
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
        peaks = []
        lines = [json.dumps(row) + "\n" for row in rows_of(options.data, TIMES * options.pairs)]
        by_length = sorted(range(len(lines)), key=lambda number: len(lines[number]), reverse=True)
        for name, step in (("small", TIMES), ("large", 1)):
            file = Path(scratch) / f"{name}.jsonl"
            file.write_text("".join(lines[number] for number in sorted(by_length[::step])), encoding="utf-8")
            peaks.append(measured(file, Path(scratch) / name, options.unit_tokens))
    print(f"peak MiB    {options.pairs:>8} pairs {TIMES * options.pairs:>8} pairs   ratio")
    for stage, small in peaks[0].items():
        large = peaks[1][stage]
        print(f"{stage:12}{small:>14.0f}{large:>15.0f}{large / small:>8.2f}")
    if options.output:
        report = {"pairs": options.pairs, "times": TIMES, "small": peaks[0], "large": peaks[1]}
        options.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
