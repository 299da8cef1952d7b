"""What a command says when it is done: one function a command, words for people, the same facts as JSON."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sparserm_cli.console import Output, duration, size

if TYPE_CHECKING:
    from sparserm_cli.stages.encode import EncodeSummary
    from sparserm_cli.stages.extract import ExtractSummary
    from sparserm_cli.stages.frequency import FrequencySummary
    from sparserm_cli.stages.run import RanStage
    from sparserm_cli.stages.score import ScoreSummary
    from sparserm_cli.stages.select import SelectSummary
    from sparserm_cli.stages.train_sae import TrainSAEResult
    from sparserm_cli.store.receipts import Manifest
    from sparserm_cli.store.status import Status
    from sparserm_cli.store.verify import Repaired, Verification

SHOWN_DIRECTIONS = 5
"""Directions a side and layer that `select` shows."""


def extract(out: Output, summary: "ExtractSummary") -> None:
    """Tell what a capture holds, or what it will cost."""
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
    }
    rows = "{rows_read:,} rows read: {rows_accepted:,} accepted, {rows_rejected:,} rejected".format(
        **plan.counts
    )
    held = f"{layout.pairs:,} pairs, {layout.responses:,} responses to {layout.prompts:,} prompts"
    held = f"{held}, {tokens:,} tokens"
    disk = f"{size(plan.bytes)} in {plan.files} files, {size(summary.free)} free"
    lines = {
        "planned": f"{rows}\nplanned: {held}\n{disk}\nexpected time here: {duration(summary.seconds)}",
        "partial": f"{rows}\n{summary.path}: this worker is done, others are not",
        "complete": f"{rows}\n{summary.path}: {held}\n{disk}\nnext: sparserm encode --sae SAE",
    }
    out.result(data, lines[summary.state])


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


def export(out: Output, path: Path) -> None:
    """Tell where the exported file is."""
    count = path.stat().st_size
    out.result({"path": str(path), "bytes": count}, f"{path}: {size(count)}")


def import_(out: Output, run: Path, manifest: "Manifest") -> None:
    """Tell what was imported."""
    data = {"run": str(run), "digest": manifest.digest, "units": len(manifest.units), "bytes": manifest.bytes}
    told = f"{run}: {len(manifest.units)} units, {size(manifest.bytes)}, content digest {manifest.digest}"
    out.result(data, f"{told}\nnext: sparserm encode --sae SAE")


def score(out: Output, summary: "ScoreSummary") -> None:
    """Tell what was scored; on stderr where the scores themselves are on stdout."""
    data = {**summary._asdict(), "seconds": round(summary.seconds, 3)}
    rows = f"{summary.read:,} rows read: {summary.accepted:,} accepted, {summary.rejected:,} rejected"
    scored = f"{summary.responses:,} responses scored in {duration(summary.seconds)}"
    text = (
        f"{rows}\n{summary.output}: {scored}, mean {summary.mean:+.3f}, standard deviation {summary.std:.3f}"
    )
    if summary.output == "-":
        out.note(text)
    else:
        out.result(data, text)


def run(out: Output, path: Path, stages: "Sequence[RanStage]") -> None:
    """Tell which stages did something and where the reward model is."""
    data = {"run": str(path), "stages": {one.name: "up to date" if one.skipped else "done" for one in stages}}
    lines = [f"{one.name}: {'was up to date' if one.skipped else 'done'}" for one in stages]
    out.result(data, "\n".join([*lines, f"{path}: complete", "next: sparserm score responses.jsonl"]))


def status(out: Output, run: Path, found: "Status") -> None:
    """Show the chain of artifacts as a tree."""
    data = {
        "run": str(run),
        "next": found.next_command,
        "artifacts": [
            {
                "name": one.name,
                "state": one.state,
                "detail": one.detail,
                "bytes": one.bytes,
                "created": one.created,
                "command": one.command,
            }
            for one in found.artifacts
        ],
    }
    lines = [str(run)]
    for number, one in enumerate(found.artifacts):
        branch = "└─" if number == len(found.artifacts) - 1 else "├─"
        told = [one.path.name.ljust(18), one.state, size(one.bytes) if one.bytes else "", one.created]
        lines.append(f"{branch} " + "  ".join(part for part in told if part))
        if one.detail:
            lines.append(f"{'  ' if branch == '└─' else '│ '}   {one.detail}")
    lines.append(f"next: {found.next_command}" if found.next_command else "everything is up to date")
    out.result(data, "\n".join(lines))


def verify(out: Output, run: Path, found: "Verification") -> None:
    """Tell what was checked, every damaged file by name, and stop with the store's exit code if there is one.

    Raises:
        CorruptStoreError: something is damaged.

    """
    damage = [(checked.artifact.name, one) for checked in found.damaged for one in checked.damage]
    data = {
        "run": str(run),
        "deep": found.deep,
        "checked": [one.artifact.name for one in found.artifacts],
        "damage": [{"artifact": name, **vars(one)} for name, one in damage],
    }
    how = "every byte read" if found.deep else "every file looked at"
    names = ", ".join(one.artifact.path.name for one in found.artifacts) or "nothing there"
    lines = [f"{name}/{one.path}: expected {one.expected}, found {one.found}" for name, one in damage]
    out.result(data, "\n".join([f"{run}: {names} ({how})", *(lines or ["no damage"])]))
    found.raise_if_damaged()


def repair(out: Output, run: Path, mended: Sequence["Repaired"]) -> None:
    """Tell which units were given up and what makes them whole again."""
    data = {
        "run": str(run),
        "repaired": [
            {"artifact": one.artifact.name, "units": list(one.units), "command": one.command}
            for one in mended
        ],
    }
    lines = [
        f"{one.artifact.path.name}: {len(one.units)} units given up; now run `{one.command}`"
        for one in mended
    ]
    out.result(data, "\n".join(lines or [f"{run}: no damage"]))


def _percent(value: float) -> str:
    """Write a share as a percentage with one decimal."""
    return f"{100 * value:.1f} %"
