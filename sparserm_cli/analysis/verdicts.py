"""Sentences that sum up an evaluation or a fit, for the command line and for the report."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sparserm_cli.statistics.verdict import gaps, verdict

if TYPE_CHECKING:
    from sparserm_cli.store.artifacts.reward import RewardConfig


def evaluation_verdict(metrics: Mapping[str, Any]) -> str:
    """Return one sentence on the reward and its controls, from the content of `evaluation.json`."""
    scorers, benchmark = metrics["scorers"], metrics["benchmark"]
    reward, prompts = scorers["reward"], evaluated_prompts(metrics)
    against = gaps(
        {name: row["reward_less_this"] for name, row in scorers.items() if "reward_less_this" in row}
    )
    if "pairs" in metrics:
        return verdict(reward, f"{metrics['pairs']:,} pairs", prompts, against)
    key, count = {
        "rm-bench": ("total", "the comparisons of RM-Bench"),
        "reward-bench-2": ("score", "the choices of RewardBench 2"),
    }[benchmark]
    return verdict({**reward, "accuracy": reward[key]}, count, prompts, against)


def evaluated_prompts(metrics: Mapping[str, Any]) -> int:
    """Return the number of measured prompts; a benchmark has one prompt per row."""
    prompts = metrics["scorers"]["reward"].get("prompts")
    return int(metrics.get("rows", metrics["rows_accepted"]) if prompts is None else prompts)


def fit_verdict(config: "RewardConfig") -> str:
    """Return one sentence on a reward model's accuracy on its validation prompts."""
    shown = [metric for metric in config.metrics if (metric.scorer, metric.split) == ("reward", "validation")]
    compared = config.training.get("validation")
    if not shown or compared is None:
        return "verdict: unknown, since this reward model was not compared with its controls; fit it again"
    pairs = f"{shown[0].pairs:,} validation pairs"
    return verdict(vars(shown[0]), pairs, compared["prompts"], gaps(compared["reward_less"]))
