"""Time scoring one response from the command line against a script that does the least possible work.

The bare script imports torch and transformers, loads the same weights up to the same layer, tokenises the
same text and runs the same forward pass; it knows no reward model. Both are whole processes, run in turn.

    python examples/benchmarks/score.py --reward .quickstart/run/reward --runs 7 --output score.json
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROW = {"prompt": "What is the capital of France?", "response": "The capital of France is Paris."}

BARE = """
import sys
import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer
folder, layer, dtype, prompt, response = sys.argv[1:]
config = AutoConfig.from_pretrained(folder)
config.num_hidden_layers = int(layer) + 1
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModel.from_pretrained(folder, config=config, dtype=getattr(torch, dtype)).eval()
text = tokenizer.apply_chat_template(
    [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
) + response
with torch.inference_mode():
    model(**tokenizer(text, add_special_tokens=False, return_tensors="pt"), use_cache=False)
"""


def seconds(command: list[str]) -> float:
    """Run a command and return how long it took."""
    begun = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command[:3])} failed:\n{done.stderr}")
    return time.perf_counter() - begun


def main() -> None:
    """Run both in turn and print medians, spread and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reward", type=Path, required=True, help="fitted reward model")
    parser.add_argument("--runs", type=int, default=7, help="counted runs of each, after one that is not")
    parser.add_argument("--output", type=Path, help="JSON file")
    options = parser.parse_args()
    from sparserm_cli.models.checkpoints.resolve import resolve_model
    from sparserm_cli.store.artifacts.reward import read_reward

    config = read_reward(options.reward).config
    folder = resolve_model(config.model).folder
    with tempfile.TemporaryDirectory() as scratch:
        row = Path(scratch) / "row.jsonl"
        row.write_text(json.dumps(ROW) + "\n")
        ours = [sys.executable, "-m", "sparserm_cli", "score", str(row), "--reward", str(options.reward)]
        ours += ["--output", "-", "--quiet", "--run"]
        bare = [sys.executable, "-c", BARE, str(folder), str(max(config.layers)), config.dtype]
        bare += [ROW["prompt"], ROW["response"]]
        times: dict[str, list[float]] = {"sparserm score": [], "bare script": []}
        for run in range(options.runs + 1):
            # Each run has a directory of its own, since scores are not computed twice.
            commands = ([*ours, str(Path(scratch) / str(run))], bare)
            for name, command in zip(times, commands, strict=True):
                took = seconds(command)
                if run:
                    times[name].append(took)
    ratios = [a / b for a, b in zip(*times.values(), strict=True)]
    figures = {
        "runs": options.runs,
        "seconds": {
            name: {"median": statistics.median(seconds), "all": seconds} for name, seconds in times.items()
        },
        "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
    }
    for name, runs_of_way in times.items():
        spread = f"{min(runs_of_way):.2f} to {max(runs_of_way):.2f}"
        print(f"{name:16} {statistics.median(runs_of_way):6.2f} s  ({spread})")
    print(f"{'ratio':16} {figures['ratio']['median']:6.2f}    ({min(ratios):.2f} to {max(ratios):.2f})")
    if options.output:
        options.output.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
