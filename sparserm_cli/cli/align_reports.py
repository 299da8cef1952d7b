"""What the commands that choose by reward say: words for people, the same facts as JSON."""

from typing import TYPE_CHECKING

from sparserm_cli.console import Output, duration

if TYPE_CHECKING:
    from sparserm_cli.align.pairs import PairsSummary
    from sparserm_cli.align.rank import RankSummary


def rank(out: Output, summary: "RankSummary") -> None:
    """Tell what best of n is worth; on stderr where the ranking itself is on stdout."""
    read = summary.accepted + summary.rejected
    data = {**summary._asdict(), "read": read, "seconds": round(summary.seconds, 3)}
    rows = f"{read:,} rows read: {summary.accepted:,} accepted, {summary.rejected:,} rejected"
    ranked = f"{summary.responses:,} responses ranked in {duration(summary.seconds)}"
    means = f"mean score {summary.mean:+.3f}, of the best {summary.best:+.3f}"
    text = f"{rows}\n{summary.output}: {ranked}, {means}"
    if summary.output == "-":
        out.note(text)
    else:
        out.result(data, text)


def pairs(out: Output, summary: "PairsSummary") -> None:
    """Tell how many pairs there are, and why the other rows gave none."""
    from sparserm_cli.store.preferences import REASONS

    data = {
        **summary._asdict(),
        "output": str(summary.output),
        "audit": str(summary.audit),
        "seconds": round(summary.seconds, 3),
    }
    dropped = sum(summary.dropped.values())
    lines = [f"{summary.read:,} rows read: {summary.kept:,} kept, {dropped:,} dropped"]
    lines += [f"  {count:,} {reason}: {REASONS[reason]}" for reason, count in summary.dropped.items()]
    made = f"{summary.kept:,} pairs in {duration(summary.seconds)}"
    if summary.kept:
        made += f", mean margin {summary.margin:.3f}, chosen longer in {100 * summary.longer:.1f} %"
    out.result(data, "\n".join([*lines, f"{summary.output}: {made}", f"{summary.audit}: why"]))
