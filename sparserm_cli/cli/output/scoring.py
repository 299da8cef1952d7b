"""The output of `score` and `evaluate`, as text for people and as JSON."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sparserm_cli.analysis.verdicts import evaluated_prompts, evaluation_verdict
from sparserm_cli.console import Output
from sparserm_cli.formatting import duration, percent, rows_read
from sparserm_cli.statistics.verdict import too_few

if TYPE_CHECKING:
    from sparserm_cli.analysis.evaluate.evaluate import EvaluateSummary
    from sparserm_cli.stages.score.score import ScoreSummary


def score(out: Output, summary: "ScoreSummary") -> None:
    """Print what was scored; on stderr if the scores themselves go to stdout."""
    data = {**summary._asdict(), "seconds": round(summary.seconds, 3)}
    rows = rows_read(summary.read, summary.accepted, summary.rejected)
    scored = f"{summary.responses:,} responses scored in {duration(summary.seconds)}"
    spread = f"mean {summary.mean:+.3f}, standard deviation {summary.std:.3f}"
    left_out = f", {summary.abstained:,} abstained from" if summary.abstained else ""
    text = f"{rows}\n{summary.output}: {scored}, {spread}{left_out}"
    out.written(summary.output, data, text)


def evaluate(out: Output, summary: "EvaluateSummary") -> None:
    """Show the accuracy of the reward model above that of its controls."""
    metrics = summary.metrics
    sentence = evaluation_verdict(metrics)
    seconds = round(summary.seconds, 3)
    data = {"path": str(summary.path), **metrics, "verdict": sentence, "seconds": seconds}
    scorers = metrics["scorers"]
    if "pairs" in metrics:
        columns = ["scorer", "accuracy", "95 % interval", "reward less this", "ties"]
        title = f"{metrics['pairs']:,} pairs of {scorers['reward']['prompts']:,} prompts"
        rows = [_pair_row(name, results) for name, results in scorers.items()]
    elif summary.benchmark == "rm-bench":
        columns, title = (
            ["scorer", "hard", "normal", "easy", "total", "95 % interval"],
            f"RM-Bench, {metrics['rows']:,} prompts",
        )
        parts = ("hard", "normal", "easy")
        rows = []
        for name, results in scorers.items():
            domains = results["domains"].values()
            means = [sum(domain[part] for domain in domains) / len(domains) for part in parts]
            rows.append([name, *map(percent, means), percent(results["total"]), _interval(results)])
    else:
        subsets = list(metrics["prompts"])
        columns = ["scorer", *subsets, "score", "95 % interval"]
        title = f"RewardBench 2, {metrics['rows']:,} prompts"
        rows = [
            [
                name,
                *(percent(results["subsets"][subset]) for subset in subsets),
                percent(results["score"]),
                _interval(results),
            ]
            for name, results in scorers.items()
        ]
    out.note(rows_read(*(metrics[f"rows_{what}"] for what in ("read", "accepted", "rejected"))))
    out.table(data, title, columns, rows)
    if not out.as_json:
        _answers(out, metrics)
        out.result({}, f"{_calibrated(metrics)}\n{sentence}")
    if warning := too_few(evaluated_prompts(metrics)):
        out.note(f"warning: {warning}")
    out.note(f"written to {summary.path}")


def _answers(out: Output, metrics: Mapping[str, Any]) -> None:
    """Show what the shortest, the longest and a random answer score beside the reward."""
    columns = ["subset", *metrics["answers"]["all"]]
    rows = [[subset, *map(percent, results.values())] for subset, results in metrics["answers"].items()]
    out.table({}, "by the same rule: the reward, and answers chosen by length or at random", columns, rows)
    if best := metrics.get("best_of_k", {}).get("scorers"):
        title = f"right answers as the best of K, {metrics['best_of_k']['prompts']:,} prompts"
        out.table(
            {}, title, ["scorer", "right"], [[name, percent(row["value"])] for name, row in best.items()]
        )


def _calibrated(metrics: Mapping[str, Any]) -> str:
    """Print how well confidence matches accuracy, and how the reward depends on length."""
    error, bias = metrics["reliability"]["error"], metrics["length_bias"]
    parts = [
        f"{name} chosen {percent(bias[name]['accuracy'])} right ({bias[name]['pairs']:,} pairs)"
        for name in ("longer", "shorter")
        if bias[name]["pairs"]
    ]
    correlation = bias["correlation"]
    correlation_text = "none: one of them is constant" if correlation is None else f"{correlation:+.2f}"
    return "\n".join(
        [
            f"calibration: confidence and accuracy are {100 * error:.1f} points apart on average",
            "length: " + ", ".join([f"rank correlation with the margin {correlation_text}", *parts]),
        ]
    )


def _pair_row(name: str, results: Mapping[str, Any]) -> list[str]:
    """Return the cells of one scorer's pair accuracy."""
    gap = results.get("reward_less_this")
    shown = "" if gap is None else f"{_points(gap['value'])} [{_points(gap['low'])}, {_points(gap['high'])}]"
    return [name, percent(results["accuracy"]), _interval(results), shown, str(results["ties"])]


def _interval(results: Mapping[str, Any]) -> str:
    """Write the ends of an interval."""
    return f"{percent(results['low'])} to {percent(results['high'])}"


def _points(value: float) -> str:
    """Write a difference of shares in percentage points."""
    return f"{100 * value:+.1f}"
