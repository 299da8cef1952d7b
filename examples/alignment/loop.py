"""Align a small language model with SparseRM's rewards, and measure whether that helps.

A reward model is fitted on one part of TruthfulQA's questions. On a second part the policy answers each
question several times, `sparserm pairs` makes preference pairs of the answers, and TRL's DPOTrainer trains
LoRA adapters on them; then the new policy answers. The same loop runs with pairs drawn at random beside it.
A third part of the questions judges every policy: the reward of its answers and, independent of the reward
model, the likelihood it gives to true answers (MC1 and MC2). Every step leaves a file and is not repeated.
"""

import argparse
import csv
import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import judge
import numpy as np
import policy

from sparserm_cli.models.checkpoints.resolve import resolve_model
from sparserm_cli.models.reward_model import RewardModel

ROOT = Path(__file__).parents[2]
MODEL = "smollm2-135m"
ARMS = ("sparserm", "random")


def main() -> None:
    """Run the whole loop, or the steps that are left, and print its table."""
    options = parsed()
    options.work.mkdir(parents=True, exist_ok=True)
    parts = split_questions(read_truthfulqa(options.truthfulqa), options)
    reward = fit_reward(parts["reward"], options.work)
    start = str(resolve_model(MODEL).folder)
    results = {"start": measured("start", start, parts["held out"], reward, options)}
    policies = dict.fromkeys(ARMS, start)
    for number in range(1, options.rounds + 1):
        for arm in ARMS:
            name = f"{arm}-{number}"
            generations = answered(policies[arm], arm, number, parts["policy"], options)
            pairs = chosen_pairs(arm, name, generations, reward, options)
            policies[arm] = trained(policies[arm], name, pairs, options)
            results[name] = measured(name, policies[arm], parts["held out"], reward, options)
    save(
        options.work / "results.json",
        {"options": {key: str(value) for key, value in vars(options).items()}, **results},
    )
    print(table(results))


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--truthfulqa", type=Path, required=True, help="TruthfulQA.csv")
    parser.add_argument("--work", type=Path, default=Path("alignment"), help="folder of everything")
    parser.add_argument(
        "--reward-questions", type=int, default=400, help="questions the reward model is fitted on"
    )
    parser.add_argument("--questions", type=int, default=150, help="questions the policy is trained on")
    parser.add_argument("--held-out", type=int, default=150, help="questions that judge")
    parser.add_argument("--answers", type=int, default=8, help="answers to each question")
    parser.add_argument("--tokens", type=int, default=40, help="most tokens of an answer")
    parser.add_argument("--rounds", type=int, default=2, help="times the loop is run")
    parser.add_argument("--epochs", type=int, default=2, help="passes of DPO over a round's pairs")
    parser.add_argument("--learning-rate", type=float, default=1e-4, help="of the adapters")
    parser.add_argument("--beta", type=float, default=0.1, help="of DPO")
    parser.add_argument("--seed", type=int, default=0, help="of everything random")
    return parser.parse_args()


def read_truthfulqa(path: Path) -> list[dict[str, Any]]:
    """Return the questions with their true and false answers, the best true one first."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        {
            "prompt": row["Question"],
            "chosen": list(dict.fromkeys([row["Best Answer"].strip(), *answers(row["Correct Answers"])])),
            "rejected": answers(row["Incorrect Answers"]),
        }
        for row in rows
    ]


def answers(text: str) -> list[str]:
    """Return the answers of a text that separates them by semicolons."""
    return [part.strip() for part in text.split(";") if part.strip()]


def split_questions(
    rows: list[dict[str, Any]], options: argparse.Namespace
) -> dict[str, list[dict[str, Any]]]:
    """Return three parts of the questions that share none."""
    random.Random(options.seed).shuffle(rows)
    sizes = {"reward": options.reward_questions, "policy": options.questions, "held out": options.held_out}
    if sum(sizes.values()) > len(rows):
        sys.exit(f"{sum(sizes.values())} questions are asked for, {len(rows)} are there")
    parts, begin = {}, 0
    for name, size in sizes.items():
        parts[name], begin = rows[begin : begin + size], begin + size
    return parts


def fit_reward(rows: list[dict[str, Any]], work: Path) -> Path:
    """Fit the reward model on labelled answers and return its folder."""
    folder = work / "run" / "reward"
    if not folder.exists():
        write_lines(work / "reward.jsonl", rows)
        for words in (
            ["extract", str(work / "reward.jsonl"), "--model", MODEL, "--layer", "14"],
            ["encode", "--sae", str(ROOT / "examples" / "sae" / MODEL)],
            ["frequency"],
            ["select", "--top-k", "64"],
            ["fit"],
        ):
            sparserm(*words, "--run", str(work / "run"))
    return folder


def sparserm(*words: str) -> dict[str, Any]:
    """Run a command of sparserm and return its JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "sparserm_cli", *words, "--json"], check=True, stdout=subprocess.PIPE
    )
    output: dict[str, Any] = json.loads(done.stdout)
    return output


def answered(
    folder: str, arm: str, number: int, rows: list[dict[str, Any]], options: argparse.Namespace
) -> Path:
    """Let a policy answer the training questions; in the first round both arms have the same policy."""
    path = options.work / (f"answers-{arm}-{number}.jsonl" if number > 1 else "answers-1.jsonl")
    if not path.exists():
        answers = policy.answer(
            folder, [row["prompt"] for row in rows], options.answers, options.tokens, options.seed + number
        )
        groups = [
            {"id": str(place), "prompt": row["prompt"], "responses": texts}
            for place, (row, texts) in enumerate(zip(rows, answers, strict=True))
        ]
        write_lines(path, [group for group in groups if group["responses"]])
    return path


def chosen_pairs(arm: str, name: str, generations: Path, reward: Path, options: argparse.Namespace) -> Path:
    """Make preference pairs of the answers: by reward, or at random from the same questions."""
    path = options.work / f"pairs-{name}.jsonl"
    if path.exists():
        return path
    words = ["--reward", str(reward), "--run", str(options.work / f"pairs-{name}"), "--to", "trl"]
    if arm == "sparserm":
        sparserm("pairs", str(generations), "--output", str(path), *words)
        return path
    draw, pairs = random.Random(options.seed), []
    for group in map(json.loads, generations.read_text(encoding="utf-8").splitlines()):
        different = list(dict.fromkeys(group["responses"]))
        if len(different) > 1:
            chosen, rejected = draw.sample(different, 2)
            turns = {"prompt": ("user", group["prompt"]), "chosen": ("assistant", chosen)}
            turns["rejected"] = ("assistant", rejected)
            pairs.append({key: [{"role": role, "content": text}] for key, (role, text) in turns.items()})
    write_lines(path, pairs)
    return path


def trained(folder: str, name: str, pairs: Path, options: argparse.Namespace) -> str:
    """Train the policy on the pairs and return the new one's folder."""
    target = options.work / f"policy-{name}"
    if not target.exists():
        policy.train(folder, pairs, target, options)
    return str(target)


def measured(
    name: str, folder: str, rows: list[dict[str, Any]], reward: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """Judge a policy on the held-out questions."""
    return once(options.work / f"judged-{name}.json", lambda: _judged(folder, rows, reward, options))


def _judged(
    folder: str, rows: list[dict[str, Any]], reward: Path, options: argparse.Namespace
) -> dict[str, Any]:
    questions = [row["prompt"] for row in rows]
    texts = policy.answer(folder, questions, 2, options.tokens, options.seed)
    model = RewardModel.load(reward)
    prompts = [question for question, group in zip(questions, texts, strict=True) for _ in group]
    scores = model.score(prompts, [text for group in texts for text in group])
    scores = (scores - model.config.score_mean) / model.config.score_std
    places = np.repeat(np.arange(len(questions)), [len(group) for group in texts])
    means = [
        float(scores[places == place].mean()) if (places == place).any() else None
        for place in range(len(rows))
    ]
    characters = float(np.mean([len(text) for group in texts for text in group]))
    return {"rewards": means, "characters": characters, **judge.multiple_choice(folder, rows)}


def table(results: dict[str, dict[str, Any]]) -> str:
    """Return one line per policy: reward with its gain over the start, MC1 and MC2, and length."""
    lines = ["policy        held-out reward   gain [95 % interval]      MC1    MC2   characters"]
    before = np.array(results["start"]["rewards"], float)
    for name, result in results.items():
        rewards = np.array(result["rewards"], float)
        gain = judge.interval(rewards - before)
        gain_text = f"{gain[0]:+.3f} [{gain[1]:+.3f}, {gain[2]:+.3f}]" if name != "start" else ""
        mc1, mc2 = np.mean(result["mc1"]), np.mean(result["mc2"])
        line = f"{name:<14}{np.nanmean(rewards):>15.3f}   {gain_text:<24}{mc1:>6.3f}{mc2:>7.3f}"
        lines.append(f"{line}{result['characters']:>13.0f}")
    return "\n".join(lines)


def once(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the content of a file, which is made first if it does not exist."""
    if not path.exists():
        save(path, make())
    stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return stored


def save(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON file that appears when it is whole."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    part.rename(path)


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write a file of JSON lines that appears when it is whole."""
    part = path.with_suffix(".part")
    part.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    part.rename(path)


if __name__ == "__main__":
    main()
