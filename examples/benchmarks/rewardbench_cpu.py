"""Evaluate an exported reward model with RewardBench's own command, also where there is no CUDA, and compare.

rewardbench.sh runs this script in RewardBench's environment. The command always moves its inputs to CUDA;
without CUDA that one call moves them to the CPU. Nothing else is changed.
"""

import argparse
import json
import sys
from pathlib import Path

import rewardbench.rewardbench as command
import torch
import transformers
from transformers import BatchEncoding


def main() -> None:
    """Run the command and print its accuracy and scores beside those of sparserm."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=Path, required=True, help="JSON lines with prompt, chosen, rejected")
    parser.add_argument("--export", required=True, help="folder of `sparserm export --to hf`, relative")
    parser.add_argument("--run", type=Path, required=True, help="run directory with evaluation and scores")
    options = parser.parse_args()
    rows = [json.loads(line) for line in options.pairs.read_text(encoding="utf-8").splitlines()]
    write_conversations(rows, Path("conversations.jsonl"))
    if not torch.cuda.is_available():
        move = BatchEncoding.to
        BatchEncoding.to = lambda self, _device: move(self, "cpu")
    sys.argv = ["rewardbench", "--model", options.export, "--dataset", "conversations.jsonl", "--load_json"]
    sys.argv += ["--not_quantized", "--torch_dtype", "float32", "--trust_remote_code", "--batch_size", "16"]
    command.main()
    compare(options.export, options.run)


def write_conversations(rows: list[dict[str, str]], path: Path) -> None:
    """Write pairs as the whole conversations that RewardBench reads."""
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            question = {"role": "user", "content": row["prompt"]}
            sides = {
                side: [question, {"role": "assistant", "content": row[side]}]
                for side in ("chosen", "rejected")
            }
            file.write(json.dumps(sides) + "\n")


def compare(export: str, run: Path) -> None:
    """Print both accuracies and the largest difference between scores."""
    outputs = [json.loads(line) for line in Path(f"results/{export}_outputs.jsonl").read_text().splitlines()]
    ours = [json.loads(line)["scores"] for line in (run / "scores.jsonl").read_text().splitlines()]
    theirs = [(row["scores_chosen"], row["scores_rejected"]) for row in outputs]
    gap = max(
        abs(a - b)
        for our_pair, other in zip(ours, theirs, strict=True)
        for a, b in zip(our_pair, other, strict=True)
    )
    evaluation = json.loads((run / "evaluation.json").read_text())["scorers"]["reward"]["accuracy"]
    accuracy = sum(row["results"] for row in outputs) / len(outputs)
    print(f"rewardbench under transformers {transformers.__version__}, {len(outputs)} pairs")
    print(f"accuracy by rewardbench {accuracy:.4f}, by sparserm evaluate {evaluation:.4f}")
    print(f"largest difference between scores {gap:.2e}")
    if accuracy != evaluation or gap > 1e-4:
        sys.exit("they differ")


if __name__ == "__main__":
    main()
