"""The output of the analysis commands, as text with coloured tokens for people and as JSON."""

import io
import sys
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from sparserm_cli.console import Output
from sparserm_cli.formatting import duration, size
from sparserm_cli.statistics.verdict import gaps, verdict

if TYPE_CHECKING:
    from sparserm_cli.analysis.compare.compare import CompareSummary
    from sparserm_cli.analysis.describe.describe import DescribeSummary
    from sparserm_cli.analysis.report.report import ReportSummary
    from sparserm_cli.models.explanation import DirectionShare, Explanation, TokenShare

LEVELS = 3
"""Strengths of a mark."""
SHOWN_TOKENS = 3
"""Promoted tokens of a direction that a table shows."""
RAISES = ("black on #bcd6f2", "black on #6fa6e0", "white on #2368b8")
LOWERS = ("black on #f6d3bb", "black on #ec9a63", "white on #a84b0a")
"""From weak to strong; both colours of text and ground are given, so any terminal shows them."""


def compare(out: Output, summary: "CompareSummary") -> None:
    """Show a comparison as Markdown tables."""
    from sparserm_cli.analysis.compare.markdown import markdown

    sentences = {name: sentence for name, run in summary.found["runs"].items() if (sentence := _verdict(run))}
    seconds = round(summary.seconds, 3)
    data = {"path": str(summary.path), **summary.found, "verdict": sentences, "seconds": seconds}
    out.result(data, "\n\n".join([markdown(summary.found).rstrip("\n"), *sentences.values()]))
    out.note(f"written to {summary.path} in {duration(summary.seconds)}; next: {out.command('report')}")


def _verdict(run: Mapping[str, Any]) -> str:
    """Return one sentence about the first method beside the others; "" where no sweep has others."""
    sweeps = run["sweeps"]
    name = "methods" if "methods" in sweeps else next(iter(sweeps), "")
    rows = list(sweeps[name].values())[-1] if name else []
    against = {row["method"]["name"]: row["against"] for row in rows if row["against"] is not None}
    if not against:
        return ""
    first = rows[0]
    count = f"{run['pairs']:,} held-out pairs"
    sentence = verdict(first["accuracy"], count, run["prompts"], gaps(against), brief=True)
    return sentence.replace("the reward has", f"{first['method']['name']} has", 1)


def describe(out: Output, summary: "DescribeSummary", top: int) -> None:
    """Show the strongest directions with their names, and how many names beat chance."""
    layers = summary.descriptions.layers
    everything = [row for rows in layers.values() for row in rows]
    named = sum(row["name"] is not None for row in everything)
    data = {
        "path": str(summary.path),
        "digest": summary.descriptions.lineage.digest,
        "describer": summary.descriptions.describer,
        "directions": len(everything),
        "named": named,
        "layers": {str(layer): list(rows) for layer, rows in layers.items()},
        "seconds": round(summary.seconds, 3),
    }
    cells = [_described_row(layer, row) for layer, rows in layers.items() for row in strongest(rows, top)]
    columns = ["name", "direction", "side", "score", "interval", "promotes"]
    title = (
        f"{named:,} of {len(everything):,} directions have a name that beats chance on held-out contexts; "
        "side + is preferred"
    )
    out.table(data, title, columns, cells)
    out.note(f"written to {summary.path} in {duration(summary.seconds)}; next: {out.command('report')}")


def strongest(rows: Sequence[Mapping[str, Any]], top: int) -> list[Mapping[str, Any]]:
    """Return the first directions of each side, alternating; they are stored strongest first."""
    sides = [[row for row in rows if row["side"] == side] for side in (1, -1)]
    paired = [row for pair in zip_longest(*sides) for row in pair if row is not None]
    return paired[:top]


def _described_row(layer: int, row: Mapping[str, Any]) -> list[str]:
    """Return the cells of one direction."""
    name = row["model"] or row["rule"]
    score = name["score"] if name else None
    interval = "" if score is None else f"{score['low']:.2f} to {score['high']:.2f}"
    return [
        row["name"] or "unnamed",
        "random" if row["feature"] is None else f"{layer}:{row['feature']}",
        "+" if row["side"] > 0 else "-",
        "" if score is None else f"{score['value']:.2f}",
        interval,
        " ".join(token["text"].strip() for token in row["promotes"][:SHOWN_TOKENS]),
    ]


def explain(out: Output, explanation: "Explanation", top: int) -> None:
    """Show what raises and what lowers a score."""
    if out.as_json:
        parts = {
            name: [row._asdict() for row in getattr(explanation, name)]
            for name in ("directions", "tokens", "groups")
        }
        out.result({**explanation._asdict(), **parts}, "")
        return
    shown = explanation.directions[:top]
    rest = sum(share.contribution for share in explanation.directions[top:])
    rows = [_direction_row(share) for share in shown]
    named = any(share.name for share in shown)
    more = len(explanation.directions) - len(shown)
    if more:
        rows.append([f"{more:,} more", "", "", "", "", "", f"{rest:+.4f}"])
    rows.append(["mean training response", "", "", "", "", "", f"{explanation.intercept:+.4f}"])
    if explanation.method != "exact":
        rows.append(["missed by the integral", "", "", "", "", "", f"{explanation.error:+.4f}"])
    title = (
        f"score {explanation.score:+.4f} of response {explanation.response} of row {explanation.row} "
        f"({_method(explanation)})"
    )
    columns = ["direction", "layer", "feature", "on chosen", "on rejected", "sd", "adds"]
    if named:
        columns.append("name")
        names = [share.name or "unnamed" for share in shown]
        rows = [[*row, name] for row, name in zip_longest(rows, names, fillvalue="")]
    out.table({}, title, columns, rows)
    if len(explanation.groups) < len(explanation.directions):
        groups = [
            [group.name, str(len(group.directions)), f"{group.cosine:.2f}", f"{group.contribution:+.4f}"]
            for group in explanation.groups
        ]
        title = "\nthe same score by groups of similar directions"
        out.table({}, title, ["group", "directions", "mean cosine", "adds"], groups)
    coloured = _takes_colours()
    tokens = (coloured_tokens if coloured else marked_tokens)(explanation.tokens)
    out.result({}, "\n" + tokens, styled=coloured)


def report(out: Output, summary: "ReportSummary") -> None:
    """Print the path of the page, and the parts that it lacks."""
    data = {
        "path": str(summary.path),
        "bytes": summary.bytes,
        "pairs": summary.pairs,
        "missing": dict(summary.missing),
        "seconds": round(summary.seconds, 3),
    }
    shown = f"{summary.path}: {size(summary.bytes)}, {summary.pairs:,} stored pairs scored"
    gaps = "; not shown: " + ", ".join(summary.missing) if summary.missing else ""
    out.result(data, shown + gaps)
    out.note("next: open it in a browser; it needs no network")


def _takes_colours() -> bool:
    """Return whether stdout is a terminal that shows weak and strong colours differently."""
    from rich.console import Console

    console = Console(file=sys.stdout)
    return console.is_terminal and not console.no_color and console.color_system in {"256", "truecolor"}


def coloured_tokens(tokens: "Sequence[TokenShare]") -> str:
    """Return the tokens on coloured ground: blue raises the score, orange lowers it."""
    from rich.console import Console
    from rich.text import Text

    from sparserm_cli.models.token_text import printable

    text = Text("tokens: blue raises the score, orange lowers it\n")
    for token, level in zip(tokens, _levels(tokens), strict=True):
        styles = RAISES if level > 0 else LOWERS
        text.append(printable(token.text), styles[abs(level) - 1] if level else "")
    written = io.StringIO()
    Console(file=written, force_terminal=True, highlight=False).print(text, soft_wrap=True, end="")
    return written.getvalue()


def marked_tokens(tokens: "Sequence[TokenShare]") -> str:
    """Return the tokens with {+} to {+++} after those that raise the score, {-} to {---} after the others."""
    from sparserm_cli.models.token_text import printable

    parts = ["tokens: {+} to {+++} raises the score, {-} to {---} lowers it\n"]
    for token, level in zip(tokens, _levels(tokens), strict=True):
        text = printable(token.text)
        mark = "{" + ("+" if level > 0 else "-") * abs(level) + "}" if level else ""
        kept = len(text.rstrip())
        parts += [text[:kept], mark, text[kept:]]
    return "".join(parts)


def _levels(tokens: "Sequence[TokenShare]") -> list[int]:
    """Return how strong each token is beside the strongest, from -3 to 3; 0 is up to a sixth of it."""
    most = max((abs(token.contribution) for token in tokens), default=0.0) or 1.0
    return [round(LEVELS * token.contribution / most) for token in tokens]


def _direction_row(share: "DirectionShare") -> list[str]:
    """Return the cells of one direction."""
    side = {1: "preferred", -1: "dispreferred"}.get(share.side, "direction")
    feature = "random" if share.feature is None else str(share.feature)
    rates = [
        "" if rate is None else f"{100 * rate:.1f} %" for rate in (share.rate_chosen, share.rate_rejected)
    ]
    pooled = side if share.pool == "mean" else f"{side} ({share.pool})"
    return [
        pooled,
        str(share.layer),
        feature,
        *rates,
        f"{share.projection:+.2f}",
        f"{share.contribution:+.4f}",
    ]


def _method(explanation: "Explanation") -> str:
    """Return how the parts were found."""
    return explanation.method if explanation.method == "exact" else f"{explanation.method}, approximate"
