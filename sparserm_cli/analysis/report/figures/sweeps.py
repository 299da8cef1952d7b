"""The report's comparison: SparseRM beside its controls, by directions, labels and noise, on other data."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from sparserm_cli.analysis.report.content.tables import AccuracyTable, interval
from sparserm_cli.analysis.report.figures.base import BLUE, GREY, ORANGE, VIOLET, Figure, errors_of, layout_of
from sparserm_cli.formatting import percent

CURVES = {
    "directions": "directions a side",
    "labels": "training pairs",
    "noise": "share of training labels swapped",
    "layers": "layers",
    "saes": "SAE",
}
"""Sweeps of `compare` that are drawn, and what is swept; the others are tables."""
_COLOURS = (BLUE, ORANGE, "#2a9d8f", VIOLET, "#c2528b", GREY)
_DASHES = ("solid", "dash", "dot")
"""Lines of methods that share a colour, in their order."""
_PLOT, _LEGEND_LINE = 296, 28
"""Height in pixels of a figure without its legend, and of two entries of the legend, side by side."""


class ComparedRun(NamedTuple):
    """What was compared on one run.

    Fields:
        name: of the run.
        told: how many pairs and folds.
        curves: name of a figure to what it shows.
        tables: title to the accuracies under it.
    """

    name: str
    told: str
    curves: Mapping[str, str]
    tables: Mapping[str, AccuracyTable]


def compared_runs(comparison: Mapping[str, Any]) -> Iterator[ComparedRun]:
    """Yield what was compared, run by run."""
    folds = comparison["protocol"]["folds"]
    for name, run in comparison["runs"].items():
        sweeps = run["sweeps"]
        yield ComparedRun(
            name,
            f"{run['pairs']:,} pairs of {run['prompts']:,} prompts, {folds} folds of whole prompts.",
            {_figure_name(name, one): f"Accuracy by {CURVES[one]}." for one in sweeps if one in CURVES},
            {
                f"Tested on {point}" if sweep == "transfer" else sweep.capitalize(): _table(rows)
                for sweep, points in sweeps.items()
                if sweep not in CURVES
                for point, rows in points.items()
            },
        )


def sweep_figures(comparison: Mapping[str, Any]) -> dict[str, Figure]:
    """Return a figure for each sweep of each run that is drawn, by name."""
    return {
        _figure_name(name, sweep): sweep_figure(points, CURVES[sweep])
        for name, run in comparison["runs"].items()
        for sweep, points in run["sweeps"].items()
        if sweep in CURVES
    }


def sweep_figure(points: Mapping[str, Sequence[Mapping[str, Any]]], what: str) -> Figure:
    """Draw accuracy along a sweep, a line a method; SparseRM, the first, has its intervals.

    Args:
        points: value to the methods' rows, in one order everywhere.
        what: is swept.

    """
    names = [row["method"]["name"] for row in next(iter(points.values()))]
    traces = [_line(name, number, points) for number, name in enumerate(names)]
    legend = _LEGEND_LINE * -(-len(names) // 2)
    layout = layout_of(what, "held-out accuracy", height=_PLOT + legend)
    layout["xaxis"] |= {"type": "category"}
    layout["yaxis"] |= {"tickformat": ".0%"}
    return {"data": traces, "layout": {**layout, "margin": {**layout["margin"], "t": legend}}}


def _line(name: str, number: int, points: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Return one method's accuracies."""
    told = [rows[number]["accuracy"] for rows in points.values()]
    colour, dash = _COLOURS[number % len(_COLOURS)], _DASHES[number // len(_COLOURS) % len(_DASHES)]
    values = [(one["accuracy"], one["low"], one["high"]) for one in told]
    trace = {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "x": list(points),
        "y": [value for value, _, _ in values],
        "line": {"color": colour, "dash": dash, "width": 3 if number == 0 else 1.5},
        "marker": {"color": colour, "size": 8 if number == 0 else 6},
        "customdata": [[low, high] for _, low, high in values],
        "hovertemplate": "%{fullData.name}, %{x}: %{y:.1%}<br>"
        "95 % interval %{customdata[0]:.1%} to %{customdata[1]:.1%}<extra></extra>",
    }
    return {**trace, "error_y": errors_of(values)} if number == 0 else trace


def _table(rows: Sequence[Mapping[str, Any]]) -> AccuracyTable:
    """Return methods as a table; all are compared with the first."""
    gap = f"{rows[0]['method']['name']} less this"
    columns = ("accuracy", "95 % interval", "between folds", "parameters", "seconds", gap)
    return AccuracyTable(columns, tuple((row["method"]["name"], _cells(row)) for row in rows))


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    accuracy, ahead = row["accuracy"], row["against"]
    gap = ""
    if ahead is not None:
        gap = f"{100 * ahead['value']:+.1f} [{100 * ahead['low']:+.1f}, {100 * ahead['high']:+.1f}]"
    return (
        percent(accuracy["accuracy"]),
        interval(accuracy["low"], accuracy["high"]),
        "" if row["fold_sd"] is None else f"{100 * row['fold_sd']:.1f}",
        f"{row['parameters']:,}",
        f"{row['seconds']:.1f}",
        gap,
    )


def _figure_name(run: str, sweep: str) -> str:
    """Return a name that can be an element's: letters of a run's name may be anything."""
    plain = "".join(one if one.isalnum() and one.isascii() else f"_{ord(one):x}_" for one in run)
    return f"sweep-{sweep}-{plain}"
