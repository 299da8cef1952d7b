"""What the benchmarks of a generating policy share: questions, rewards fitted on other questions, intervals.

The policy is smollm2-135m. Everything is kept in a folder and not made again.
"""

import argparse
import csv
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sparserm_cli.models.checkpoints.resolve import resolve_model
from sparserm_cli.models.lm.devices import choose_dtype

ROOT = Path(__file__).parents[2]
MODEL = "smollm2-135m"
LAYER = 14
FITTED = 400
"""Questions of TruthfulQA that the reward is fitted on; the policy answers some of the others."""
SAMPLES = 2000
"""Bootstrap samples of an interval."""


def parser(doc: str | None, questions: int) -> argparse.ArgumentParser:
    """Return a parser of what every benchmark of a policy is told.

    Args:
        doc: what the benchmark says of itself.
        questions: held-out questions that the policy answers by default.

    """
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--truthfulqa", type=Path, required=True, help="TruthfulQA.csv")
    made.add_argument(
        "--work", type=Path, default=ROOT / ".benchmarks" / "policy", help="folder of everything"
    )
    made.add_argument("--questions", type=int, default=questions, help="held-out questions answered")
    made.add_argument("--tokens", type=int, default=64, help="most tokens of an answer")
    made.add_argument("--seed", type=int, default=0, help="seed of everything random")
    return made


def truthfulqa(path: Path, seed: int) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the labelled questions that the reward is fitted on, and the questions held out."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    random.Random(seed).shuffle(rows)
    fitted = [
        {
            "prompt": row["Question"],
            "chosen": _answers(row["Correct Answers"]),
            "rejected": _answers(row["Incorrect Answers"]),
        }
        for row in rows[:FITTED]
    ]
    known = {row["prompt"] for row in fitted}
    return fitted, [row["Question"] for row in rows[FITTED:] if row["Question"] not in known]


def _answers(text: str) -> list[str]:
    """Return answers set apart by semicolons."""
    return list(dict.fromkeys(part.strip() for part in text.split(";") if part.strip()))


def reward(run: Path, data: Path, *extract: str) -> Path:
    """Fit a linear reward with 64 directions per side on a file, and return its folder."""
    if not (run / "reward").exists():
        for words in (
            ["extract", str(data), "--model", MODEL, "--layer", str(LAYER), "--offline", *extract],
            ["encode", "--sae", str(ROOT / "examples" / "sae" / MODEL)],
            ["frequency"],
            ["select", "--top-k", "64"],
            ["fit", "--head", "linear", "--loss", "bt"],
        ):
            command = [sys.executable, "-m", "sparserm_cli", *words, "--run", str(run), "--quiet"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return run / "reward"


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write JSON lines and return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def truthful_reward(options: argparse.Namespace) -> tuple[Path, list[str]]:
    """Return the reward fitted on TruthfulQA, and the held-out questions that the policy answers."""
    fitted, held_out = truthfulqa(options.truthfulqa, options.seed)
    data = write_lines(options.work / "truthfulqa.jsonl", fitted)
    return reward(options.work / "truthfulqa", data), held_out[: options.questions]


def policy() -> tuple[Any, Any]:
    """Load the policy, to compute in one thread, and its tokenizer, which pads on the left."""
    torch.set_num_threads(1)  # on a busy machine, threads that wait for each other would be measured
    folder = str(resolve_model(MODEL, offline=True).folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=choose_dtype("auto", "cpu")[0]).eval()
    return model, AutoTokenizer.from_pretrained(folder, padding_side="left")


def interval(values: np.ndarray) -> str:
    """Return the mean of one value per question with its 95 % interval from a bootstrap over questions."""
    draws = np.random.default_rng(0).integers(len(values), size=(SAMPLES, len(values)))
    low, high = np.quantile(values[draws].mean(axis=1), [0.025, 0.975])
    return f"{values.mean():+.3f} ({low:+.3f} to {high:+.3f})"
