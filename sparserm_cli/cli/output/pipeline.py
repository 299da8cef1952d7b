"""The output of the stages, as text for people and as JSON."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sparserm_cli.analysis.verdicts import fit_verdict
from sparserm_cli.config import DEFAULT_MODEL, DEFAULT_SAE
from sparserm_cli.console import Output
from sparserm_cli.formatting import duration, percent, rows_read, size
from sparserm_cli.statistics.verdict import FEW_PROMPTS, too_few
from sparserm_cli.store.artifacts.penalties import penalties_of, penalty_text

if TYPE_CHECKING:
    from sparserm_cli.stages.encode.encode import EncodeSummary
    from sparserm_cli.stages.extract.estimate import Estimate
    from sparserm_cli.stages.extract.extract import ExtractSummary
    from sparserm_cli.stages.fit.fit import FitSummary
    from sparserm_cli.stages.frequency.frequency import FrequencySummary
    from sparserm_cli.stages.select.select import SelectSummary

SHOWN_DIRECTIONS = 5
"""Directions a side and layer that `select` shows."""


def extract(out: Output, summary: "ExtractSummary") -> None:
    """Print what a capture holds, or what it will cost.

    Raises:
        ResourceError: it is only planned, and the disk has no room for it.

    """
    from sparserm_cli.store.capture.plan import check_space

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
    then, besides = f"next: {out.command('encode', sae=_sae_for(plan.settings.model))}", ""
    if plan.settings.positions == "latents":
        then = f"the latents are in features.zarr\nnext: {out.command('frequency')}"
        besides = "; besides, 6 to 8 bytes for each latent that fires on a token"
    rows = rows_read(*(plan.counts[f"rows_{what}"] for what in ("read", "accepted", "rejected")))
    held = f"{layout.pairs:,} pairs, {layout.responses:,} responses to {layout.prompts:,} prompts"
    held = f"{held}, {tokens:,} tokens"
    disk = f"{size(plan.bytes)} in {plan.files} files"
    if summary.free is not None:
        disk = f"{disk}, {size(summary.free)} free"
    lines = {
        "planned": f"{rows}\nplanned: {held}\n{disk}{besides}\n{_expected(summary.estimate)}",
        "partial": f"{rows}\n{summary.path}: this worker is done, others are not",
        "complete": f"{rows}\n{summary.path}: {held}\n{disk}\n{then}",
    }
    out.result(data, lines[summary.state])
    if summary.state == "planned":
        check_space(summary.path.parent, plan.bytes)


def _sae_for(model: str) -> str:
    """Return the SAE that is known for a model, else a placeholder."""
    return DEFAULT_SAE if model == DEFAULT_MODEL else "SAE"


def _expected(estimate: "Estimate | None") -> str:
    """Return the expected time and cost of computing a plan."""
    if estimate is None:
        return ""
    rate = f"{estimate.rate.tokens_per_second:,.0f} tokens/s, {estimate.rate.source}"
    first = f", {duration(estimate.preparing)} of them to read and load," if estimate.preparing else ""
    devices = f"{estimate.devices} x {estimate.rate.device}"
    line = f"estimated: {duration(estimate.seconds)}{first} on {devices} at {rate}"
    price = "" if estimate.price is None else f", for {estimate.price:,.2f}"
    return f"{line}; {estimate.flops:.2g} FLOP{price}"


def _estimate_json(estimate: "Estimate | None") -> dict[str, Any] | None:
    """Return an estimate as JSON."""
    return None if estimate is None else {**estimate._asdict(), "rate": estimate.rate._asdict()}


def encode(out: Output, summary: "EncodeSummary") -> None:
    """Print what was encoded, and how well the SAEs fit a sample."""
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
    outcome = f"{summary.path}: {state}, {summary.computed} units encoded in {duration(summary.seconds)}"
    out.result(data, "\n".join([*lines, outcome, f"next: {out.command('frequency')}"]))


def frequency(out: Output, summary: "FrequencySummary") -> None:
    """Print what was counted, and how many latents separate the sides."""
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
        f"layer {layer}: {counts['latents']:,} latents, {counts['alive']:,} fire, "
        f"{counts['q_below_0.05']:,} tell the sides apart (McNemar q < 0.05)"
        for layer, counts in layers.items()
    ]
    out.result(data, "\n".join([f"{summary.path}: {counted}", *lines, f"next: {out.command('select')}"]))


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
                    "feature": int(latents.feature[row]),
                    "side": int(latents.side[row]),
                    "statistic": float(latents.statistic[row]),
                }
                for row in range(len(latents.feature))
            ]
            for layer, latents in layers.items()
        },
        "seconds": round(summary.seconds, 3),
    }
    rows = []
    for layer, latents in layers.items():
        for side, name in ((1, "preferred"), (-1, "dispreferred")):
            for row in [row for row in range(len(latents.side)) if latents.side[row] == side][
                :SHOWN_DIRECTIONS
            ]:
                rates = percent(latents.rate_chosen[row]), percent(latents.rate_rejected[row])
                numbers = f"{latents.statistic[row]:+.4f}", f"{latents.q[row]:.1g}"
                rows.append([name, str(layer), str(latents.feature[row]), *rates, *numbers])
    title = f"{summary.path}: {summary.top_k} directions a side by {summary.by}; the strongest of each side"
    columns = ["side", "layer", "feature", "on chosen", "on rejected", summary.by, "q"]
    out.table(data, title, columns, rows)
    out.note(f"next: {out.command('fit')}")


def fit(out: Output, summary: "FitSummary") -> None:
    """Show the settings tried, then the accuracy on the validation prompts above that of the controls."""
    config = summary.config
    metrics = [metric for metric in config.metrics if metric.split == "validation"]
    data: dict[str, Any] = {
        "path": str(summary.path),
        "digest": config.lineage.digest,
        "metrics": [vars(metric) for metric in config.metrics],
        "training": {key: value for key, value in config.training.items() if key != "prompt_groups"},
        "seconds": round(summary.seconds, 3),
    }
    pairs = metrics[0].pairs if metrics else 0
    trained = f"{config.training['train_pairs']:,} pairs of {config.training['train_prompts']:,} prompts"
    title = f"{summary.path}: trained on {trained}; on {pairs:,} validation pairs:"
    rows = [
        [
            metric.scorer,
            percent(metric.accuracy),
            f"{percent(metric.low)} to {percent(metric.high)}",
            str(metric.ties),
        ]
        for metric in metrics
    ]
    choice = config.training.get("choice")
    if choice and not out.as_json:
        _choice(out, choice)
    data["verdict"] = fit_verdict(config)
    out.table(data, title, ["scorer", "accuracy", "95 % interval", "ties"], rows)
    if not out.as_json:
        out.result({}, data["verdict"])
        if "groups" in config.training:
            _groups(out, config.training["groups"])
    if penalty := penalty_text(penalties_of(config.training)):
        out.note(f"penalty of the head: {penalty}")
    if warning := too_few(config.training.get("validation", {}).get("prompts", FEW_PROMPTS)):
        out.note(f"warning: {warning}")
    out.note(f"next: {out.command('evaluate held-out.jsonl')}, or {out.command('score responses.jsonl')}")


def _groups(out: Output, groups: Mapping[str, Any]) -> None:
    """Show how each group's head does on its own validation pairs, beside the head of all pairs."""
    rows = []
    for name, facts in groups["heads"].items():
        moved = "kept" if facts["strength"] is None else f"{facts['strength']:g}"
        cells = [name, f"{facts['train_pairs']:,}", moved]
        if "own" in facts:
            gap = facts["own_less_shared"]
            shares = [percent(facts[key]["accuracy"]) for key in ("shared", "own")]
            ends = f"{100 * gap['value']:+.1f} [{100 * gap['low']:+.1f}, {100 * gap['high']:+.1f}]"
            cells += [f"{facts['own']['pairs']:,}", *shares, ends]
        rows.append([*cells, *[""] * (7 - len(cells))])
    columns = [
        groups["column"],
        "pairs",
        "penalty",
        "validation",
        "all pairs' head",
        "its head",
        "difference",
    ]
    out.table({}, "\none head per group, on the group's validation pairs:", columns, rows)


def _choice(out: Output, choice: Mapping[str, Any]) -> None:
    """Show the settings that were tried."""
    title = f"{choice['chosen']}: the best by {choice['folds']} folds of the training prompts"
    rows = [
        [setting["name"], percent(setting["accuracy"]), f"{setting['pairs']:,}"]
        for setting in choice["tried"]
    ]
    out.table({}, title, ["setting", "accuracy", "n"], rows)
