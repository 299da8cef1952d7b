"""The output of `data`, as text for people and as JSON."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sparserm_cli.console import Output
from sparserm_cli.formatting import rows_read

if TYPE_CHECKING:
    from sparserm_cli.analysis.data_summary import DataSummary

SHOWN_CHARACTERS = 300
"""Characters of a message that are shown to people."""


def data(out: Output, summary: "DataSummary", output: str | None) -> None:
    """Print shape, columns, counts and the first rows; on stderr if the pairs themselves go to stdout."""
    lines = [summary.understood, rows_read(summary.read, summary.accepted, summary.rejected)]
    lines += [_reason(reason) for reason in summary.reasons]
    if summary.labelled:
        lines.append(
            f"{summary.pairs:,} pairs of {summary.prompts:,} prompts: {summary.identical:,} identical, "
            f"{summary.duplicate:,} duplicate, {summary.contradictory:,} contradictory"
        )
    else:
        lines.append(f"{summary.responses:,} responses to {summary.prompts:,} prompts, none preferred")
    lines += _remarks(summary)
    for row in summary.first:
        lines += _row(row)
    if output:
        lines.append(f"{summary.written:,} pairs written to {output}")
    out.written(output or "", summary._asdict(), "\n".join(lines))


def _remarks(summary: "DataSummary") -> list[str]:
    """Return further remarks on the rows."""
    remarks = []
    if summary.undecided:
        kinds = ", ".join(f"{count:,} {why}" for why, count in summary.undecided.items())
        remarks.append(f"{sum(summary.undecided.values()):,} rows or prompts prefer no response: {kinds}")
    if summary.margins:
        remarks.append(f"{summary.margins:,} pairs say by how much one response is better")
    if summary.parsed:
        remarks.append(f"{summary.parsed:,} rows hold messages as JSON text, which are parsed")
    if summary.templated:
        remarks.append(
            f"{summary.templated:,} rows hold marks of a chat template; if it is the model's own, their text "
            "is taken as it is"
        )
    return remarks


def _reason(reject: Mapping[str, Any]) -> str:
    field = f", field {reject['field']}" if reject["field"] else ""
    return f"rejected: row {reject['row']}{field}: {reject['reason']}"


def _row(row: Mapping[str, Any]) -> list[str]:
    """Show one row as messages: + before what is better, - before what is worse, = before the others."""
    good, bad = ({pair[side] for pair in row["pairs"]} for side in (0, 1))
    lines = [f"row {row['row']}"]
    lines += [f"    {turn['role']}: {_shown(turn)}" for turn in row["prompt"]]
    for place, turn in enumerate(row["responses"]):
        mark = "+" if place in good - bad else "-" if place in bad - good else "="
        lines.append(f"  {mark} {turn['role']}: {_shown(turn)}")
    return lines


def _shown(turn: Mapping[str, Any]) -> str:
    """Write a message on one line, with the names of what else it holds."""
    text = " ".join(str(turn["content"]).split())
    text = text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."
    more = ", ".join(key for key in turn if key not in {"role", "content"})
    return f"{text} [{more}]" if more else text
