"""The report's comparison of SparseRM with its controls, over directions, labels, noise and other data."""

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
"""Mapping from the sweeps of `compare` that are drawn to the swept quantity; other sweeps are tables."""
_COLOURS = (BLUE, ORANGE, "#2a9d8f", VIOLET, "#c2528b", GREY)
_DASHES = ("solid", "dash", "dot")
"""Lines of methods that share a colour, in their order."""
_PLOT, _LEGEND_LINE = 296, 28
"""Height in pixels of a figure without its legend, and of two entries of the legend, side by side."""


class ComparedRun(NamedTuple):
    """The comparison of one run.

    Fields:
        name: name of the run.
        sizes: numbers of pairs and folds, in words.
        curves: mapping from the name of a figure to its description.
        tables: mapping from a title to the accuracies below it.
    """

    name: str
    sizes: str
    curves: Mapping[str, str]
    tables: Mapping[str, AccuracyTable]


def compared_runs(comparison: Mapping[str, Any]) -> Iterator[ComparedRun]:
    """Yield the comparison of each run."""
    folds = comparison["protocol"]["folds"]
    for name, run in comparison["runs"].items():
        sweeps = run["sweeps"]
        yield ComparedRun(
            name,
            f"{run['pairs']:,} pairs of {run['prompts']:,} prompts, {folds} folds of whole prompts.",
            {
                _figure_name(name, sweep): f"Accuracy by {CURVES[sweep]}."
                for sweep in sweeps
                if sweep in CURVES
            },
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
    """Draw accuracy along a sweep, with one line per method; SparseRM, the first, has intervals.

    Args:
        points: mapping from a value to the rows of the methods, which always have the same order.
        what: the swept quantity.

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
    accuracies = [rows[number]["accuracy"] for rows in points.values()]
    colour, dash = _COLOURS[number % len(_COLOURS)], _DASHES[number // len(_COLOURS) % len(_DASHES)]
    values = [(row["accuracy"], row["low"], row["high"]) for row in accuracies]
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
    """Return the methods as a table; all are compared with the first one."""
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
    """Return a name that an HTML element can have, whatever characters the name of the run contains."""
    plain = "".join(
        character if character.isalnum() and character.isascii() else f"_{ord(character):x}_"
        for character in run
    )
    return f"sweep-{sweep}-{plain}"
