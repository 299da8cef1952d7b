"""The report's scatter of latents: how often each fires on chosen and on rejected responses."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from sparserm_cli.analysis.report.figures.base import (
    AXES,
    BLUE,
    GREY,
    ORANGE,
    Figure,
    layout_of,
    rounded,
    sample,
)
from sparserm_cli.store.artifacts.directions import LayerDirections
from sparserm_cli.store.artifacts.frequency import LatentStatistics

DRAWN_LATENTS = 4000
"""Largest number of latents that are drawn besides the selected ones."""


def frequency_figure(layer: int, measures: LatentStatistics, selected: LayerDirections | None) -> Figure:
    """Draw each latent's rate on chosen against its rate on rejected responses, the selected ones marked.

    Latents that never fire are left out. Of the others at most `DRAWN_LATENTS` are drawn: half of them those
    with the largest differences, half a fixed random sample.
    """
    marked = np.empty(0, np.int64) if selected is None else selected.feature[selected.feature >= 0]
    others = _drawn(measures, marked)
    faint = {"size": 5, "color": GREY, "opacity": 0.45}
    traces = [_equal_rates(), _latents("other latents", layer, measures, others, faint)]
    if selected is not None:
        traces += _selected_latents(layer, measures, selected)
    layout = layout_of("rate on rejected", "rate on chosen", height=520)
    shown = measures.rate[:, marked] if len(marked) else measures.rate
    span = [0, 1.08 * float(shown.max(initial=1e-4))]
    for axis in AXES:
        layout[axis] |= {"tickformat": "~%", "range": span}
    layout["updatemenus"] = [_scales(span)]
    return {"data": traces, "layout": layout}


def _drawn(measures: LatentStatistics, marked: Int64[np.ndarray, " marked"]) -> Int64[np.ndarray, " drawn"]:
    """Return the latents that fire and are not selected, at most `DRAWN_LATENTS` of them."""
    alive = np.flatnonzero(measures.rate.max(axis=0) > 0)
    others = np.setdiff1d(alive, marked)
    if len(others) <= DRAWN_LATENTS:
        return others
    order = others[np.argsort(-np.abs(measures.difference[others]), kind="stable")]
    half = DRAWN_LATENTS // 2
    rest = order[half:]
    return np.sort(np.concatenate([order[:half], rest[sample(len(rest), half)]]))


def _equal_rates() -> Figure:
    """Return the line of equal rates, straight on linear and logarithmic axes."""
    line = {"color": GREY, "width": 1, "dash": "dash"}
    ends = [0, 1e-7, 1]
    look = {"mode": "lines", "line": line, "showlegend": False, "hoverinfo": "skip"}
    return {"type": "scatter", "x": ends, "y": ends, **look}


def _scales(span: Sequence[float]) -> Figure:
    """Return the buttons that choose linear or logarithmic axes."""
    linear = {
        f"{axis}.{name}": value for axis in AXES for name, value in (("type", "linear"), ("range", span))
    }
    logarithmic = {
        f"{axis}.{name}": value for axis in AXES for name, value in (("type", "log"), ("range", [-4, 0]))
    }
    buttons = [
        {"label": label, "method": "relayout", "args": [change]}
        for label, change in (("linear", linear), ("logarithmic", logarithmic))
    ]
    place = {"x": 1, "xanchor": "right", "y": 0.02, "yanchor": "bottom"}
    return {"type": "buttons", "direction": "right", "showactive": False, "buttons": buttons, **place}


def _selected_latents(layer: int, measures: LatentStatistics, selected: LayerDirections) -> list[Figure]:
    """Return the selected latents of both sides as points."""
    looks = (
        (1, "preferred", {"size": 10, "color": BLUE, "symbol": "triangle-up"}),
        (-1, "dispreferred", {"size": 10, "color": ORANGE, "symbol": "triangle-down"}),
    )
    traces = []
    for side, name, marker in looks:
        members = selected.feature[(selected.side == side) & (selected.feature >= 0)]
        traces.append(_latents(name, layer, measures, members, marker))
    return traces


def _latents(
    name: str, layer: int, measures: LatentStatistics, features: Int64[np.ndarray, " drawn"], marker: Figure
) -> Figure:
    """Return one class of latents as points."""
    columns = zip(features, measures.difference[features], measures.mcnemar_q[features], strict=True)
    where = f"layer {layer}, feature %{{customdata[0]}}<br>"
    rates = "chosen %{y:.2%}, rejected %{x:.2%}<br>"
    tests = "difference %{customdata[1]} points, q = %{customdata[2]}<extra></extra>"
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": rounded(measures.rate[1, features]),
        "y": rounded(measures.rate[0, features]),
        "marker": marker,
        "customdata": [[int(latent), f"{100 * gap:+.2f}", f"{q:.1g}"] for latent, gap, q in columns],
        "hovertemplate": where + rates + tests,
    }
