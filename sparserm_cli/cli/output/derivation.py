"""What the commands say that make one reward model of another: words for people, the same facts as JSON."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sparserm_cli.console import Output
from sparserm_cli.formatting import percent

if TYPE_CHECKING:
    from sparserm_cli.analysis.derivation.adapt import AdaptSummary
    from sparserm_cli.analysis.derivation.change import Change, Measured
    from sparserm_cli.analysis.derivation.edit import EditSummary
    from sparserm_cli.statistics.pair_accuracy import Difference

_FLIPS_SHOWN = 10
_NAMES_SHOWN = 8


def edit(out: Output, summary: "EditSummary") -> None:
    """Show what an edit changes, on the validation pairs and on those of a file."""
    config = summary.config
    data = {
        "path": str(summary.path),
        "digest": config.lineage.digest,
        "parent": config.derivation[-1]["parent"],
        "factors": dict(summary.factors),
        "refit": config.derivation[-1]["refit"],
        "score_mean": config.score_mean,
        "score_std": config.score_std,
        "changes": {name: change.to_json() for name, change in summary.changes.items()},
        "seconds": round(summary.seconds, 3),
    }
    if out.as_json:
        out.result(data, "")
        return
    if summary.changes:
        changes(out, summary.changes)
    mean, std = summary.spread
    lines = [
        f"changed: {_listed(summary.factors)}" + (", and fitted again" if data["refit"] else ""),
        f"training scores: {_spread(mean, std)} -> {_spread(config.score_mean, config.score_std)}",
        f"{summary.path}: a new reward model; its ood is that of the old one",
    ]
    out.result({}, "\n".join(lines))


def _spread(mean: float, std: float) -> str:
    """Return the mean and the standard deviation of scores."""
    return f"mean {mean:+.3f}, standard deviation {std:.3f}"


def adapt(out: Output, summary: "AdaptSummary") -> None:
    """Show how far the head has moved, and what that is worth on pairs that it had not seen."""
    config, adaptation = summary.config, summary.found
    data = {
        "path": str(summary.path),
        "digest": config.lineage.digest,
        "parent": config.derivation[-1]["parent"],
        "kept": adaptation.strength is None,
        "strength": adaptation.strength,
        "tried": [tried._asdict() for tried in (adaptation.old, *adaptation.tried)],
        "old": summary.old._asdict(),
        "new": summary.new._asdict(),
        "gain": summary.gain._asdict(),
        "far": summary.far,
        "score_mean": config.score_mean,
        "score_std": config.score_std,
        "seconds": round(summary.seconds, 3),
    }
    old, new = summary.old, summary.new
    moved = (
        "kept as it was"
        if adaptation.strength is None
        else f"moved, with a penalty of {adaptation.strength:g}"
    )
    lines = [
        f"{old.pairs:,} pairs of {old.prompts:,} prompts: the head is {moved}",
        f"right before: {percent(old.accuracy)}",
        f"right on the inner folds that chose it: {percent(new.accuracy)}, {points(summary.gain)} points",
        f"{percent(summary.far)} of the responses are further from the training responses than 99 % of these",
        f"{summary.path}: a new reward model",
    ]
    out.result(data, "\n".join(lines))


def changes(out: Output, sets: "Mapping[str, Change]") -> None:
    """Show what a change does on each set of pairs, and which pairs flip."""
    columns = ["pairs", "n", "accuracy", "after less before", "length correlation", "score mean", "deviation"]
    rows = [_row(name, change) for name, change in sets.items()]
    out.table({}, "before -> after", columns, rows)
    lines = [
        f"{name}: also fitted on these pairs, so the accuracies are too high"
        for name, change in sets.items()
        if not change.held_out
    ]
    out.result({}, "\n".join([*lines, *(_flips(name, change) for name, change in sets.items())]))


def points(gap: "Difference") -> str:
    """Return a difference of accuracies with its interval, in percentage points."""
    return f"{100 * gap.value:+.1f} [{100 * gap.low:+.1f}, {100 * gap.high:+.1f}]"


def _row(name: str, change: "Change") -> list[str]:
    """Return the cells of one set of pairs."""
    before, after = change.before, change.after
    return [
        name,
        f"{before.accuracy.pairs:,}",
        f"{percent(before.accuracy.accuracy)} -> {percent(after.accuracy.accuracy)}",
        points(change.difference),
        f"{_correlation(before)} -> {_correlation(after)}",
        f"{before.mean:+.2f} -> {after.mean:+.2f}",
        f"{before.std:.2f} -> {after.std:.2f}",
    ]


def _correlation(measured: "Measured") -> str:
    """Return the rank correlation of margin and length; a constant one has none."""
    value = measured.length_correlation
    return "none" if value != value else f"{value:+.2f}"


def _flips(name: str, change: "Change") -> str:
    """Return how many pairs flip and the rows of the first."""
    won = [flip for flip in change.flipped if flip.after > 0]
    lost = [flip for flip in change.flipped if not flip.after > 0]
    parts = [
        f"{len(flips):,} {what}{_rows([flip.row for flip in flips])}"
        for what, flips in (("won", won), ("lost", lost))
    ]
    return f"{name}: pairs {', '.join(parts)}"


def _rows(rows: Sequence[int]) -> str:
    """Return the numbers of the first rows in brackets; nothing for none."""
    shown = ", ".join(map(str, rows[:_FLIPS_SHOWN])) + (", ..." if len(rows) > _FLIPS_SHOWN else "")
    return f" (rows {shown})" if rows else ""


def _listed(factors: Mapping[str, float]) -> str:
    """Return the changed directions with their factors, the first of them by name."""
    dropped = [name for name, factor in factors.items() if factor == 0]
    scaled = [f"{name} times {factor:g}" for name, factor in factors.items() if factor != 0]
    more = f" and {len(dropped) - _NAMES_SHOWN:,} more" if len(dropped) > _NAMES_SHOWN else ""
    parts = [f"{', '.join(dropped[:_NAMES_SHOWN])}{more} dropped"] if dropped else []
    return "; ".join([*parts, *scaled])
