"""Time the whole way from 300 pairs of answers to a fitted reward model, then to 100 scored responses.

Two commands, `sparserm run` and `sparserm score`, each a process of its own that begins cold; only the
language model is in the cache. The data are a TruthfulQA table's best and first incorrect answers.

    python examples/benchmarks/headline.py TruthfulQA.csv --output headline.json
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PAIRS, RESPONSES = 300, 100
SAE = Path(__file__).parents[1] / "sae" / "smollm2-135m"
SETTINGS = """
[extract]
data = "pairs.jsonl"
model = "smollm2-135m"
layer = 14
[encode]
sae = {sae}
"""


def write_data(table: Path, folder: Path) -> None:
    """Write the pairs of the first questions, and answers to the next ones to score."""
    with table.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    if len(rows) < PAIRS + RESPONSES:
        sys.exit(f"{table}: {PAIRS + RESPONSES} questions needed, {len(rows)} found")
    pairs = [
        {
            "prompt": row["Question"],
            "chosen": row["Best Answer"],
            "rejected": row["Incorrect Answers"].split(";")[0].strip(),
        }
        for row in rows[:PAIRS]
    ]
    responses = [
        {"prompt": row["Question"], "response": row["Best Answer"]} for row in rows[PAIRS : PAIRS + RESPONSES]
    ]
    for name, lines in (("pairs", pairs), ("responses", responses)):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    (folder / "sparserm.toml").write_text(SETTINGS.format(sae=json.dumps(str(SAE))), encoding="utf-8")


def command(folder: Path, *words: str) -> tuple[float, dict[str, Any]]:
    """Run a command of sparserm in the folder; return its seconds and what it printed."""
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "sparserm_cli", *words, "--json", "--quiet"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"sparserm {' '.join(words)} failed:\n{done.stderr}")
    return time.perf_counter() - begun, json.loads(done.stdout)


def main() -> None:
    """Run both commands and print the seconds of each stage."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path, help="TruthfulQA.csv")
    parser.add_argument("--output", type=Path, help="JSON file")
    options = parser.parse_args()
    from sparserm_cli.models.checkpoints.resolve import resolve_model

    resolve_model("smollm2-135m")  # the model is fetched and converted before the timing
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_data(options.table, folder)
        run, output = command(folder, "run")
        score, _ = command(folder, "score", "responses.jsonl")
    stages = {name: stage["seconds"] for name, stage in output["stages"].items()}
    parts = {**stages, "start of run": run - sum(stages.values()), "score": score}
    for name, seconds in parts.items():
        print(f"{name:14}{seconds:7.1f} s")
    print(f"{'in all':14}{run + score:7.1f} s")
    if options.output:
        report = {"pairs": PAIRS, "responses": RESPONSES, "seconds": {**parts, "in all": run + score}}
        options.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
