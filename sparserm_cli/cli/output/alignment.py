"""The output of the commands that use a reward, as text for people and as JSON."""

from typing import TYPE_CHECKING

from sparserm_cli.console import Output
from sparserm_cli.formatting import duration, rows_read

if TYPE_CHECKING:
    from sparserm_cli.alignment.doctor.checks import Check
    from sparserm_cli.alignment.doctor.doctor import Diagnosis
    from sparserm_cli.alignment.doctor.rounding import Rounding
    from sparserm_cli.alignment.response_choice.pairs import PairsSummary
    from sparserm_cli.alignment.response_choice.rank import RankSummary
    from sparserm_cli.alignment.response_choice.suggest import SuggestSummary


def rank(out: Output, summary: "RankSummary") -> None:
    """Print what best of n gains; on stderr if the ranking itself goes to stdout."""
    read = summary.accepted + summary.rejected
    data = {**summary._asdict(), "read": read, "seconds": round(summary.seconds, 3)}
    rows = rows_read(read, summary.accepted, summary.rejected)
    ranked = f"{summary.responses:,} responses ranked in {duration(summary.seconds)}"
    means = f"mean score {summary.mean:+.3f}, of the best {summary.best:+.3f}"
    text = f"{rows}\n{summary.output}: {ranked}, {means}"
    out.written(summary.output, data, text)


def pairs(out: Output, summary: "PairsSummary") -> None:
    """Print the number of pairs, and the reasons why the other rows gave none."""
    from sparserm_cli.store.outputs.preferences import REASONS

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


def suggest(out: Output, summary: "SuggestSummary") -> None:
    """Tell how many pairs are suggested out of how many, and what their labels would add."""
    data = {**summary._asdict(), "seconds": round(summary.seconds, 3)}
    lines = [f"{summary.read:,} rows read: {summary.pairs:,} pairs of {summary.prompts:,} prompts to label"]
    lines += [f"  {count:,} rows left out: {reason}" for reason, count in summary.left_out.items()]
    known = f"{summary.trained:,} training pairs" if summary.trained else "the penalty of the fit alone"
    gain = f"their labels would add {summary.nats:.1f} nats to {known}"
    suggested = f"{summary.suggested:,} pairs in {duration(summary.seconds)}, the most telling first"
    out.written(summary.output, data, "\n".join([*lines, f"{summary.output}: {suggested}; {gain}"]))


def doctor(out: Output, diagnosis: "Diagnosis") -> None:
    """Show how far everything drifts, and what to set."""
    tables = {name: [row._asdict() for row in getattr(diagnosis, name)] for name in ("checks", "rounding")}
    data = diagnosis._asdict() | tables
    blocks = ", ".join(map(str, diagnosis.layers))
    tokens = ", ".join(f"{name} {getattr(diagnosis, name) or 'none'}" for name in ("bos", "eos", "pad"))
    title = (
        f"{diagnosis.model} after block {blocks}, {diagnosis.responses} responses; "
        f"{tokens}; tree: {diagnosis.tree}"
    )
    columns = ["done otherwise", "largest drift", "mean", "score drift", "order turned"]
    out.table(data, title, columns, [_check_row(check) for check in diagnosis.checks])
    if not out.as_json:
        out.result({}, "\n" + "\n".join(f"{check.name}: {check.advice}" for check in diagnosis.checks) + "\n")
        title = "relative error of a response's vectors against float32, each response alone"
        columns = ["computed", "in", "vector", "median", "95 %", "times rows: median", "95 %"]
        out.table({}, title, columns, [_rounding_row(rounding) for rounding in diagnosis.rounding])


def _rounding_row(rounding: "Rounding") -> list[str]:
    """Return the cells of one way to compute vectors."""
    times = ("", "") if rounding.times_rows is None else (f"{each:.2f}" for each in rounding.times_rows)
    return [
        rounding.way,
        rounding.dtype,
        rounding.pooling,
        f"{rounding.median:.3%}",
        f"{rounding.high:.3%}",
        *times,
    ]


def _check_row(check: "Check") -> list[str]:
    """Return the cells of one check; a drift is in the spread between responses, of scores in their own."""
    numbers = (check.drift, check.mean, check.score_drift)
    flips = "" if check.flips is None else str(check.flips)
    return [check.name, *("" if number is None else f"{number:.2g}" for number in numbers), flips]
