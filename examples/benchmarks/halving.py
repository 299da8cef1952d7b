"""Best of n by halving against full best of n, and against best of fewer with the same number of tokens.

The reward is fitted on 400 questions of TruthfulQA; the policy, smollm2-135m, answers others. Both ways
have the same candidates, since each has a random generator of its own. Scores are those of the policy's own
passes.

    python examples/benchmarks/halving.py --truthfulqa TruthfulQA.csv
"""

import argparse
import json
import time
from typing import Any

import numpy as np
import policies

from sparserm_cli.alignment.generation.best_of_n import Candidates, Sampling, best_of_n
from sparserm_cli.alignment.generation.policy_reward import PolicyReward
from sparserm_cli.models.reward_model import RewardModel
from sparserm_cli.store.artifacts.reward import read_reward

CHECKPOINTS = {"halving at 8, 16, 32": (8, 16, 32)}
TEMPERATURE = 0.7
FULL = "full best of n"


def main() -> None:
    """Let the policy answer each question in every way, and print what each way reaches and costs."""
    parser = policies.parser(__doc__, questions=40)
    parser.add_argument("--n", type=int, default=16, help="candidates of a question")
    options = parser.parse_args()
    folder, questions = policies.truthful_reward(options)
    policy, tokenizer = policies.policy()
    own = PolicyReward.load(folder, policy)
    std = read_reward(folder).config.score_std
    ways = {FULL: (), **CHECKPOINTS}
    kept = options.work / f"halving-{options.n}-{options.tokens}-{options.seed}.jsonl"
    rows = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    for number, question in list(enumerate(questions))[len(rows) :]:
        turns = [{"role": "user", "content": question}]
        prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
        results, seconds = {}, {}
        for name, checkpoints in ways.items():
            sampling = Sampling(
                options.n,
                options.tokens,
                checkpoints,
                temperature=TEMPERATURE,
                top_p=1.0,
                seed=options.seed + number,
            )
            begin = time.perf_counter()
            results[name] = best_of_n(own, prompt, sampling)
            seconds[name] = time.perf_counter() - begin
        rows.append(figures(results, seconds, std))
        policies.write_lines(kept, rows)
        if not number:
            gap = drift(folder, question, results[FULL], tokenizer) / std
            print(f"largest difference from RewardModel.score: {gap:.4f} standard deviations")
        print(f"{number + 1} of {len(questions)} questions", flush=True)
    print(table(rows[: len(questions)], options))


def figures(results: dict[str, Candidates], seconds: dict[str, float], std: float) -> dict[str, Any]:
    """Return what each way reaches and costs for one question, with scores in standard deviations."""
    full = results[FULL]
    scores = np.array([candidate.score for candidate in full.all]) / std
    row = {"one candidate": {"reward": float(np.nanmean(scores)), "tokens": full.passed / len(scores)}}
    costs = np.cumsum([len(candidate.ids) for candidate in full.all])
    for name, made in results.items():
        row[name] = {"reward": made.best.score / std, "tokens": made.passed, "seconds": seconds[name]}
        row[name]["same"] = float(made.best.number == full.best.number)
        if name != FULL:
            # As many whole candidates as the tokens of this way pay for; with the broken one counted in full.
            count = min(len(scores), int(np.searchsorted(costs, made.passed)) + 1)
            fewer = {
                "reward": float(np.nanmax(scores[:count])),
                "tokens": float(costs[count - 1]),
                "n": count,
            }
            row[f"as many tokens as {name}"] = fewer
    return row


def drift(folder: Any, question: str, full: Candidates, tokenizer: Any) -> float:
    """Return the largest difference of a candidate's score from that of the reward model on the same text."""
    model = RewardModel.load(folder, offline=True)
    gaps = []
    for candidate in full.all:
        text = tokenizer.decode(candidate.ids)
        (row,) = model.tokenize(question, [text])
        if row.responses[0].response_ids.tolist() == candidate.ids.tolist():
            gaps.append(abs(float(model.score(question, text)[0]) - candidate.score))
    print(f"{len(gaps)} of {len(full.all)} candidates have the same tokens when their text is read again")
    return max(gaps)


def table(rows: list[dict[str, Any]], options: argparse.Namespace) -> str:
    """Return a line per way: reward, its paired difference from the full way, tokens and time."""
    lines = [f"{len(rows)} questions, best of {options.n}, at most {options.tokens} tokens"]
    lines += [
        "| way | reward | less the full one | tokens, share of full | time, share of full | same answer |"
    ]
    lines += ["|---|---|---|---|---|---|"]

    def column(name: str, key: str) -> np.ndarray:
        return np.array([row[name].get(key, np.nan) for row in rows], float)

    for name in rows[0]:
        less = "" if name == FULL else policies.interval(column(name, "reward") - column(FULL, "reward"))
        tokens = column(name, "tokens").sum() / column(FULL, "tokens").sum()
        time_share = column(name, "seconds").sum() / column(FULL, "seconds").sum()
        shown = "" if np.isnan(time_share) else f"{time_share:.2f}"
        same = column(name, "same").mean()
        same_text = "" if np.isnan(same) else f"{same:.2f}"
        reward = policies.interval(column(name, "reward"))
        lines.append(f"| {name} | {reward} | {less} | {tokens:.2f} | {shown} | {same_text} |")
    for name in CHECKPOINTS:
        gap = policies.interval(column(name, "reward") - column(f"as many tokens as {name}", "reward"))
        lines.append(f"{name} less best of fewer with as many tokens: {gap}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
