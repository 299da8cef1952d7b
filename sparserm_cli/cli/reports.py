"""What a command says when it is done: one function a command, words for people, the same facts as JSON."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sparserm_cli.console import Output, duration, size

if TYPE_CHECKING:
    from sparserm_cli.stages.encode import EncodeSummary
    from sparserm_cli.stages.estimate import Estimate
    from sparserm_cli.stages.extract import ExtractSummary
    from sparserm_cli.stages.fit import FitSummary
    from sparserm_cli.stages.frequency import FrequencySummary
    from sparserm_cli.stages.score import ScoreSummary
    from sparserm_cli.stages.select import SelectSummary
    from sparserm_cli.stages.train_sae import TrainSAEResult
    from sparserm_cli.study.evaluate import EvaluateSummary

SHOWN_DIRECTIONS = 5
"""Directions a side and layer that `select` shows."""


def extract(out: Output, summary: "ExtractSummary") -> None:
    """Tell what a capture holds, or what it will cost.

    Raises:
        ResourceError: it is only planned, and the disk has no room for it.

    """
    from sparserm_cli.store.plan import check_space

    plan, layout = summary.plan, summary.plan.layout
    tokens = layout.response_tokens + layout.prompt_tokens
    data = {
        "path": str(summary.path),
        "state": summary.state,
        "digest": summary.digest,
        **plan.counts,
        "pairs": layout.pairs,
        "responses": layout.responses,
        "prompts": layout.prompts,
        "tokens": tokens,
        "response_tokens": layout.response_tokens,
        "bytes": plan.bytes,
        "files": plan.files,
        "units": layout.units,
        "units_computed": summary.computed,
        "seconds": round(summary.seconds, 3),
        "free_bytes": summary.free,
        "dtype": plan.settings.dtype,
        "layers": list(plan.settings.layers),
        "positions": plan.settings.positions,
        "estimate": _estimate_json(summary.estimate),
    }
    then = "next: sparserm encode --sae SAE"
    if plan.settings.positions == "latents":
        then = "the latents are in features.zarr\nnext: sparserm frequency"
    rows = "{rows_read:,} rows read: {rows_accepted:,} accepted, {rows_rejected:,} rejected".format(
        **plan.counts
    )
    held = f"{layout.pairs:,} pairs, {layout.responses:,} responses to {layout.prompts:,} prompts"
    held = f"{held}, {tokens:,} tokens"
    disk = f"{size(plan.bytes)} in {plan.files} files, {size(summary.free)} free"
    lines = {
        "planned": f"{rows}\nplanned: {held}\n{disk}\n{_expected(summary.estimate)}",
        "partial": f"{rows}\n{summary.path}: this worker is done, others are not",
        "complete": f"{rows}\n{summary.path}: {held}\n{disk}\n{then}",
    }
    out.result(data, lines[summary.state])
    if summary.state == "planned":
        check_space(summary.path.parent, plan.bytes)


def _expected(estimate: "Estimate | None") -> str:
    """Say what computing a plan will take."""
    if estimate is None:
        return ""
    rate = f"{estimate.rate.tokens_per_second:,.0f} tokens/s, {estimate.rate.source}"
    told = f"estimated: {duration(estimate.seconds)} on {estimate.devices} x {estimate.rate.device} at {rate}"
    price = "" if estimate.price is None else f", for {estimate.price:,.2f}"
    return f"{told}; {estimate.flops:.2g} FLOP{price}"


def _estimate_json(estimate: "Estimate | None") -> dict[str, Any] | None:
    """Return an estimate as JSON."""
    return None if estimate is None else {**estimate._asdict(), "rate": estimate.rate._asdict()}


def encode(out: Output, summary: "EncodeSummary") -> None:
    """Tell what was encoded and how well the SAEs fit a sample."""
    samples = {str(layer): quality._asdict() for layer, quality in summary.samples.items()}
    data = {
        "path": str(summary.path),
        "state": summary.state,
        "digest": summary.digest,
        "layers": list(summary.plan.layers),
        "units_computed": summary.computed,
        "seconds": round(summary.seconds, 3),
        "samples": samples,
    }
    lines = [
        f"layer {layer}: explained variance {quality.explained_variance:.3f}, L0 {quality.l0:.1f} on a sample"
        for layer, quality in summary.samples.items()
    ]
    state = "complete" if summary.state == "complete" else "this worker is done, others are not"
    told = f"{summary.path}: {state}, {summary.computed} units encoded in {duration(summary.seconds)}"
    out.result(data, "\n".join([*lines, told, "next: sparserm frequency"]))


def frequency(out: Output, summary: "FrequencySummary") -> None:
    """Tell what was counted and how many latents tell the sides apart."""
    table, totals = summary.frequency, summary.frequency.totals
    layers = {
        str(layer): {
            "latents": len(measures.difference),
            "alive": int((measures.responses.sum(axis=0) > 0).sum()),
            "q_below_0.05": int((measures.mcnemar_q < 0.05).sum()),
        }
        for layer, measures in table.layers.items()
    }
    data = {
        "path": str(summary.path),
        "unit": table.unit,
        "pairs": totals.pairs,
        "pairs_left_out": summary.left_out,
        "prompts": totals.prompts,
        "tokens": list(totals.tokens),
        "layers": layers,
        "seconds": round(summary.seconds, 3),
    }
    counted = f"{totals.pairs:,} pairs of {totals.prompts:,} prompts, {sum(totals.tokens):,} tokens"
    lines = [
        f"layer {layer}: {told['latents']:,} latents, {told['alive']:,} fire, "
        f"{told['q_below_0.05']:,} tell the sides apart (McNemar q < 0.05)"
        for layer, told in layers.items()
    ]
    out.result(data, "\n".join([f"{summary.path}: {counted}", *lines, "next: sparserm select --top-k 64"]))


def select(out: Output, summary: "SelectSummary") -> None:
    """Show the strongest directions of each side."""
    layers = summary.directions.layers
    data = {
        "path": str(summary.path),
        "by": summary.by,
        "top_k": summary.top_k,
        "directions": {
            str(layer): [
                {
                    "feature": int(one.feature[row]),
                    "side": int(one.side[row]),
                    "statistic": float(one.statistic[row]),
                }
                for row in range(len(one.feature))
            ]
            for layer, one in layers.items()
        },
        "seconds": round(summary.seconds, 3),
    }
    rows = []
    for layer, one in layers.items():
        for side, name in ((1, "preferred"), (-1, "dispreferred")):
            for row in [row for row in range(len(one.side)) if one.side[row] == side][:SHOWN_DIRECTIONS]:
                rates = _percent(one.rate_chosen[row]), _percent(one.rate_rejected[row])
                numbers = f"{one.statistic[row]:+.4f}", f"{one.q[row]:.1g}"
                rows.append([name, str(layer), str(one.feature[row]), *rates, *numbers])
    title = f"{summary.path}: {summary.top_k} directions a side by {summary.by}; the strongest of each side"
    columns = ["side", "layer", "feature", "on chosen", "on rejected", summary.by, "q"]
    out.table(data, title, columns, rows)
    out.note("next: sparserm fit")


def fit(out: Output, summary: "FitSummary") -> None:
    """Show the accuracy on the validation prompts above that of the controls."""
    config, metrics = summary.config, [one for one in summary.config.metrics if one.split == "validation"]
    data = {
        "path": str(summary.path),
        "digest": config.lineage.digest,
        "metrics": [vars(one) for one in config.metrics],
        "training": {key: value for key, value in config.training.items() if key != "prompt_groups"},
        "seconds": round(summary.seconds, 3),
    }
    pairs = metrics[0].pairs if metrics else 0
    trained = f"{config.training['train_pairs']:,} pairs of {config.training['train_prompts']:,} prompts"
    title = f"{summary.path}: trained on {trained}; on {pairs:,} validation pairs:"
    rows = [
        [one.scorer, _percent(one.accuracy), f"{_percent(one.low)} to {_percent(one.high)}", str(one.ties)]
        for one in metrics
    ]
    out.table(data, title, ["scorer", "accuracy", "95 % interval", "ties"], rows)
    out.note("next: sparserm score responses.jsonl, or sparserm evaluate held-out.jsonl")


def train_sae(out: Output, result: "TrainSAEResult") -> None:
    """Tell how well the new SAE fits tokens it has not seen."""
    measured = {"held out": result.held_out, **result.tests}
    data = {
        "path": str(result.folder),
        "training_tokens": result.rows,
        "epochs": round(result.epochs, 2),
        "seconds": round(result.seconds, 1),
        "measured": {name: quality._asdict() for name, quality in measured.items()},
    }
    rows = [
        [name, f"{one.explained_variance:.4f}", f"{one.l0:.1f}", f"{one.dead:,}", f"{one.tokens:,}"]
        for name, one in measured.items()
    ]
    title = f"{result.folder}: trained on {result.rows:,} tokens in {duration(result.seconds)}"
    out.table(data, title, ["tokens", "explained variance", "L0", "dead latents", "n"], rows)
    out.note(f"next: sparserm encode --sae {result.folder}")


def score(out: Output, summary: "ScoreSummary") -> None:
    """Tell what was scored; on stderr where the scores themselves are on stdout."""
    data = {**summary._asdict(), "seconds": round(summary.seconds, 3)}
    rows = f"{summary.read:,} rows read: {summary.accepted:,} accepted, {summary.rejected:,} rejected"
    scored = f"{summary.responses:,} responses scored in {duration(summary.seconds)}"
    spread = f"mean {summary.mean:+.3f}, standard deviation {summary.std:.3f}"
    left_out = f", {summary.abstained:,} abstained from" if summary.abstained else ""
    text = f"{rows}\n{summary.output}: {scored}, {spread}{left_out}"
    if summary.output == "-":
        out.note(text)
    else:
        out.result(data, text)


def evaluate(out: Output, summary: "EvaluateSummary") -> None:
    """Show the accuracy of the reward model above that of its controls."""
    metrics = summary.metrics
    data = {"path": str(summary.path), **metrics, "seconds": round(summary.seconds, 3)}
    rows_told = "{rows_read:,} rows read: {rows_accepted:,} accepted, {rows_rejected:,} rejected".format(
        **metrics
    )
    scorers = metrics["scorers"]
    if summary.benchmark == "pairs":
        columns = ["scorer", "accuracy", "95 % interval", "reward less this", "ties"]
        title = f"{metrics['pairs']:,} pairs of {scorers['reward']['prompts']:,} prompts"
        rows = [_pair_row(name, told) for name, told in scorers.items()]
    elif summary.benchmark == "rm-bench":
        columns, title = (
            ["scorer", "hard", "normal", "easy", "total", "95 % interval"],
            f"RM-Bench, {metrics['rows']:,} prompts",
        )
        parts = ("hard", "normal", "easy")
        rows = []
        for name, told in scorers.items():
            domains = told["domains"].values()
            means = [sum(one[part] for one in domains) / len(domains) for part in parts]
            rows.append([name, *map(_percent, means), _percent(told["total"]), _interval(told)])
    else:
        subsets = list(metrics["prompts"])
        columns = ["scorer", *subsets, "score", "95 % interval"]
        title = f"RewardBench 2, {metrics['rows']:,} prompts"
        rows = [
            [
                name,
                *(_percent(told["subsets"][one]) for one in subsets),
                _percent(told["score"]),
                _interval(told),
            ]
            for name, told in scorers.items()
        ]
    out.note(rows_told)
    out.table(data, title, columns, rows)
    if not out.as_json:
        out.result({}, _calibrated(metrics))
    out.note(f"written to {summary.path}")


def _calibrated(metrics: Mapping[str, Any]) -> str:
    """Tell what confidence is worth, and what length has to do with the reward."""
    error, bias = metrics["reliability"]["error"], metrics["length_bias"]
    parts = [
        f"{name} chosen {_percent(bias[name]['accuracy'])} right ({bias[name]['pairs']:,} pairs)"
        for name in ("longer", "shorter")
        if bias[name]["pairs"]
    ]
    correlation = bias["correlation"]
    told = "none: one of them is constant" if correlation is None else f"{correlation:+.2f}"
    return "\n".join(
        [
            f"calibration: confidence and accuracy are {100 * error:.1f} points apart on average",
            "length: " + ", ".join([f"rank correlation with the margin {told}", *parts]),
        ]
    )


def _pair_row(name: str, told: Mapping[str, Any]) -> list[str]:
    """Return the cells of one scorer's pair accuracy."""
    gap = told.get("reward_less_this")
    shown = "" if gap is None else f"{_points(gap['value'])} [{_points(gap['low'])}, {_points(gap['high'])}]"
    return [name, _percent(told["accuracy"]), _interval(told), shown, str(told["ties"])]


def _interval(told: Mapping[str, Any]) -> str:
    """Write the ends of an interval."""
    return f"{_percent(told['low'])} to {_percent(told['high'])}"


def _points(value: float) -> str:
    """Write a difference of shares in percentage points."""
    return f"{100 * value:+.1f}"


def _percent(value: float) -> str:
    """Write a share as a percentage with one decimal."""
    return f"{100 * value:.1f} %"
