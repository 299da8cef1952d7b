"""Write a comparison as Markdown tables, which a terminal, a README and an issue can all show."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from sparserm_cli.statistics.verdict import Gap, gaps, smallest_difference

SWEEPS = {
    "directions": "directions a side",
    "labels": "training pairs",
    "noise": "training labels swapped",
    "layers": "layers",
    "saes": "SAE of",
}
"""The swept quantity of each sweep that is a curve; the other sweeps list methods."""


def markdown(comparison: Mapping[str, Any]) -> str:
    """Return the comparison as Markdown tables, one run after the other.

    A mark behind an accuracy means that the paired 95 % interval against the table's first method excludes
    zero: - means that the method is worse, + that it is better. The last column is the smallest difference
    that would get a mark in four samples of five; for a curve, that of its widest interval.
    """
    parts = []
    for name, run in comparison["runs"].items():
        parts.append(f"### {name}: {run['pairs']:,} pairs of {run['prompts']:,} prompts")
        parts.append(
            "\n".join(f"- {sample_name}: {_saes(layers)}" for sample_name, layers in run["saes"].items())
        )
        for sweep, points in run["sweeps"].items():
            if sweep in SWEEPS:
                parts.append(_curve(points, SWEEPS[sweep]))
                continue
            for point, rows in points.items():
                if sweep == "transfer":
                    parts.append(f"Tested on {point}:")
                parts.append(_listing(rows))
    return "\n\n".join(parts) + "\n"


def _saes(layers: Mapping[str, Mapping[str, float]]) -> str:
    """Return the width, the mean number of firing latents per token and the explained variance per SAE."""
    sentences = []
    for layer, facts in layers.items():
        explained = facts.get("explained_variance")
        fit = "" if explained is None else f", explained variance {explained:.3f}"
        sentences.append(f"layer {layer}, {facts['d_sae']:,} latents, L0 {facts['l0']:.1f}{fit}")
    return "; ".join(sentences)


def _curve(points: Mapping[str, Sequence[Mapping[str, Any]]], what: str) -> str:
    """Return a sweep as a table with one row per point and one column per method."""
    names = [row["method"]["name"] for row in next(iter(points.values()))]
    lines = [f"| {what} | {' | '.join(names)} | told apart |", "|---" * (len(names) + 2) + "|"]
    for point, rows in points.items():
        smallest = smallest_difference(_gaps(rows))
        cells = [*(_cell(row) for row in rows), "" if smallest is None else f"{smallest:.3f}"]
        lines.append(f"| {point} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _gaps(rows: Sequence[Mapping[str, Any]]) -> list[Gap]:
    """Return how far the first method is ahead of each other one."""
    return gaps({row["method"]["name"]: row["against"] for row in rows if row["against"] is not None})


def _cell(row: Mapping[str, Any]) -> str:
    """Return an accuracy with its mark."""
    against = row["against"]
    mark = ""
    if against is not None and against["low"] > 0:
        mark = "-"
    elif against is not None and against["high"] < 0:
        mark = "+"
    return f"{row['accuracy']['accuracy']:.3f}{mark}"


def _listing(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return methods as a table with one line per method."""
    first = rows[0]["method"]["name"]
    columns = ("method", "accuracy", "95 % interval", "between folds", "parameters", "seconds")
    names = [*columns, f"{first} less this", "told apart"]
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for row in rows:
        accuracy, against = row["accuracy"], row["against"]
        ahead = "" if against is None else "{value:+.3f} ({low:+.3f} to {high:+.3f})".format(**against)
        smallest = smallest_difference(_gaps([row]))
        spread = "" if row["fold_sd"] is None else f"{row['fold_sd']:.3f}"
        cells = (
            row["method"]["name"],
            f"{accuracy['accuracy']:.3f}",
            f"{accuracy['low']:.3f} to {accuracy['high']:.3f}",
            spread,
            f"{row['parameters']:,}",
            f"{row['seconds']:.1f}",
            ahead,
            "" if smallest is None else f"{smallest:.3f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    for row in rows:
        if row.get("chosen"):
            choices = (f"{name} ({count})" for name, count in Counter(row["chosen"]).most_common())
            lines.append(f"\n{row['method']['name']}: {'; '.join(choices)}")
    return "\n".join(lines)
