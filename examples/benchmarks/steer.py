"""Steer a policy by a reward and measure what its greedy answers gain and lose, against random directions.

The vector comes from a reward that is fitted on 400 questions of TruthfulQA; smollm2-135m answers others.
Rewards fitted on HH-RLHF harmless and on the safety subset of RewardBench 2 judge the answers, beside the
reward itself. The policy without steering says how fluent they are. Random directions have the same length.

    python examples/benchmarks/steer.py --truthfulqa TruthfulQA.csv --hh-rlhf FILE --reward-bench-2 FILE
"""

import json
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import policies
import torch

from sparserm_cli.alignment.generation.policy_reward import PolicyReward
from sparserm_cli.alignment.steering.hook import steered
from sparserm_cli.alignment.steering.vector import SteeringVector, steering_vector
from sparserm_cli.models.reward_model import RewardModel
from sparserm_cli.store.artifacts.reward import read_reward

STRENGTHS = (0.05, 0.1, 0.2)
BATCH = 25
"""Questions answered together."""


def main() -> None:
    """Answer in every way, judge the answers, and print a table of paired differences."""
    parser = policies.parser(__doc__, questions=50)
    parser.add_argument("--hh-rlhf", type=Path, required=True, help="harmless pairs; 400 are used")
    parser.add_argument("--reward-bench-2", type=Path, required=True, help="safety pairs; 450 are used")
    options = parser.parse_args()
    folder, questions = policies.truthful_reward(options)
    judges = {"own": folder}
    for name, file, limit in (
        ("hh-rlhf", options.hh_rlhf, 400),
        ("reward-bench-2", options.reward_bench_2, 450),
    ):
        judges[name] = policies.reward(
            options.work / name, file, "--limit", str(limit), "--on-bad-row", "reject"
        )
    vector = steering_vector(RewardModel.load(folder, offline=True))
    print(f"mean norm of the residual stream {vector.norms}, gain of strength 1 in a score {vector.gains}")
    policy, tokenizer = policies.policy()
    measured: dict[str, dict[str, np.ndarray]] = {}
    for name, added in ways(vector, options.seed).items():
        with steered(policy, added) if added else nullcontext():
            texts = answers(policy, tokenizer, questions, options.tokens)
        measured[name] = judged(policy, tokenizer, judges, questions, texts)
        print(f"{name}: {texts[:2]}", flush=True)
        policies.write_lines(options.work / f"steered {name}.jsonl", [{"answer": text} for text in texts])
    print(table(measured, list(judges)))
    rows = {
        name: {key: values.tolist() for key, values in result.items()} for name, result in measured.items()
    }
    (options.work / "steer.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def ways(vector: SteeringVector, seed: int) -> dict[str, dict[int, np.ndarray]]:
    """Return the vectors that are added in each way; a random direction is drawn per strength."""
    draw = np.random.default_rng(seed)
    made: dict[str, dict[int, np.ndarray]] = {"unsteered": {}}
    for strength in STRENGTHS:
        made[f"reward, {strength}"] = vector.scaled(strength)
        made[f"random, {strength}"] = {
            layer: _of_length(draw.standard_normal(len(added)), float(np.linalg.norm(added)))
            for layer, added in vector.scaled(strength).items()
        }
    return made


def _of_length(values: np.ndarray, length: float) -> np.ndarray:
    """Return a vector of this direction and length, in float32."""
    return (values * length / np.linalg.norm(values)).astype(np.float32)


@torch.inference_mode()
def answers(policy: Any, tokenizer: Any, questions: list[str], tokens: int) -> list[str]:
    """Answer each question greedily."""
    texts: list[str] = []
    for start in range(0, len(questions), BATCH):
        turns = [[{"role": "user", "content": question}] for question in questions[start : start + BATCH]]
        prompts = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        inputs = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
        made = policy.generate(**inputs, do_sample=False, max_new_tokens=tokens)
        texts += tokenizer.batch_decode(made[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [text.strip() or "." for text in texts]


@torch.inference_mode()
def judged(
    policy: Any, tokenizer: Any, judges: dict[str, Path], questions: list[str], texts: list[str]
) -> dict[str, np.ndarray]:
    """Return each answer's rewards in standard deviations of their fits, and what the policy says of it.

    One pass of the policy gives all of it. `surprise` is the mean negative log-probability of the tokens of
    an answer, in nats; the perplexity is its exponential.
    """
    rows: dict[str, list[float]] = {name: [] for name in (*judges, "surprise", "characters")}
    heads = {name: PolicyReward.load(path, policy) for name, path in judges.items()}
    stds = {name: read_reward(path).config.score_std for name, path in judges.items()}
    for question, text in zip(questions, texts, strict=True):
        turns = [{"role": "user", "content": question}]
        prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        start = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
        ids = tokenizer(prompt + text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        with ExitStack() as hooks:
            for head in heads.values():
                hooks.enter_context(head)
                head.begin(start, 1)
            logits = policy(ids).logits[0, start - 1 : -1].float()
        for name, head in heads.items():
            rows[name].append(float(head.scores()[0]) / stds[name])
        rows["surprise"].append(float(torch.nn.functional.cross_entropy(logits, ids[0, start:])))
        rows["characters"].append(float(len(text)))
    return {name: np.array(values) for name, values in rows.items()}


def table(measured: dict[str, dict[str, np.ndarray]], judges: list[str]) -> str:
    """Return a line per way: differences from the unsteered answers, and from a random direction."""
    base = measured["unsteered"]
    lines = ["| way | " + " | ".join(judges) + " | surprise, nats per token | perplexity | characters |"]
    lines.append("|---" * (len(judges) + 4) + "|")
    for name, result in measured.items():
        cells = [
            policies.interval(result[key] if name == "unsteered" else result[key] - base[key])
            for key in (*judges, "surprise")
        ]
        perplexity = np.exp(result["surprise"].mean())
        lines.append(
            f"| {name} | {' | '.join(cells)} | {perplexity:.1f} | {result['characters'].mean():.0f} |"
        )
    for strength in STRENGTHS:
        ours, random = (measured[f"{way}, {strength}"] for way in ("reward", "random"))
        gaps = ", ".join(
            f"{key} {policies.interval(ours[key] - random[key])}" for key in (*judges, "surprise")
        )
        lines.append(f"reward less random at {strength}: {gaps}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
