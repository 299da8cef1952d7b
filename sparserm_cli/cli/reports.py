"""What a command says when it is done: one function a command, words for people, the same facts as JSON."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sparserm_cli.console import Output, duration, size

if TYPE_CHECKING:
    from sparserm_cli.stages.extract import ExtractSummary


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
    held = f"{layout.pairs:,} pairs, {layout.responses:,} responses to {layout.prompts:,} prompts, {tokens:,} tokens"
    disk = f"{size(plan.bytes)} in {plan.files} files, {size(summary.free)} free"
    lines = {
        "planned": f"{rows}\nplanned: {held}\n{disk}\nexpected time here: {duration(summary.seconds)}",
        "partial": f"{rows}\n{summary.path}: this worker is done, others are not",
        "complete": f"{rows}\n{summary.path}: {held}\n{disk}\nnext: sparserm encode --sae SAE",
    }
    out.result(data, lines[summary.state])


def _percent(value: float) -> str:
    """Write a share as a percentage with one decimal."""
    return f"{100 * value:.1f} %"


def _rows(items: Sequence[Sequence[Any]]) -> list[list[str]]:
    """Turn table cells into text."""
    return [[str(cell) for cell in row] for row in items]
