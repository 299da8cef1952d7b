"""Write train.jsonl and test.jsonl of a public preference data set, as pairs that every recipe reads.

    python examples/recipes/data.py truthful-qa --folder work

- truthful-qa: all correct against all incorrect answers; a fifth of the questions is for testing. With
  --pairs that many pairs of one correct and one incorrect answer are drawn for training.
- safe-rlhf: PKU-SafeRLHF, the safe against the unsafe response where exactly one is safe.
- red-team: the harmless part of HH-RLHF, which is our guess at the paper's Red-Teaming data.
"""

import argparse
import json
import random
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

SEED = 0
DRAWN_PAIRS = 1000


def truthful_qa(rows: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the questions with their right and wrong answers."""
    for row in rows:
        if row["correct_answers"] and row["incorrect_answers"]:
            chosen, rejected = list(row["correct_answers"]), list(row["incorrect_answers"])
            yield {"prompt": row["question"], "chosen": chosen, "rejected": rejected}


def safe_rlhf(rows: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the pairs of which one response is safe."""
    for row in rows:
        if row["is_response_0_safe"] != row["is_response_1_safe"]:
            safe = 0 if row["is_response_0_safe"] else 1
            chosen, rejected = row[f"response_{safe}"], row[f"response_{1 - safe}"]
            yield {"prompt": row["prompt"], "chosen": chosen, "rejected": rejected}


def single_pairs(rows: Iterable[Mapping[str, Any]], count: int) -> list[dict[str, Any]]:
    """Draw pairs of one chosen and one rejected answer, every pair of every row with the same chance."""
    pairs = [
        {"prompt": row["prompt"], "chosen": chosen, "rejected": rejected}
        for row in rows
        for chosen in row["chosen"]
        for rejected in row["rejected"]
    ]
    return random.Random(SEED).sample(pairs, min(count, len(pairs)))


def split(name: str, pairs: int | None) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Fetch a data set and return what is for training and what for testing."""
    from datasets import load_dataset

    if name == "truthful-qa":
        rows = list(truthful_qa(load_dataset("truthfulqa/truthful_qa", "generation", split="validation")))
        random.Random(SEED).shuffle(rows)
        train, test = rows[len(rows) // 5 :], rows[: len(rows) // 5]
        return (train if pairs is None else single_pairs(train, pairs)), test
    if name == "red-team":
        train, test = (
            list(load_dataset("Anthropic/hh-rlhf", data_dir="harmless-base", split=part))
            for part in ("train", "test")
        )
    else:
        train, test = (
            list(safe_rlhf(load_dataset("PKU-Alignment/PKU-SafeRLHF", split=part)))
            for part in ("train", "test")
        )
        seen = {row["prompt"] for row in train}
        test = [row for row in test if row["prompt"] not in seen]
    return tuple(
        random.Random(SEED).sample(rows, min(pairs or DRAWN_PAIRS, len(rows))) for rows in (train, test)
    )


def main() -> None:
    """Write the two files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=["truthful-qa", "safe-rlhf", "red-team"])
    parser.add_argument("--pairs", type=int, help="pairs to draw; 1000 of safe-rlhf and red-team without it")
    parser.add_argument("--folder", type=Path, default=Path(), help="where to")
    options = parser.parse_args()
    for part, rows in zip(("train", "test"), split(options.name, options.pairs), strict=True):
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (options.folder / f"{part}.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
