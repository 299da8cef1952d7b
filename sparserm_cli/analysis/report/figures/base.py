"""The report's figures, described in plotly's JSON. The page sets the colours of text and grid.

Every figure is bounded in size: data of any amount are counted in bins, or a fixed sample of them is drawn.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int64

from sparserm_cli.analysis.report.content.stored_scores import PairScores
from sparserm_cli.statistics.calibration import LengthBias, Reliability
from sparserm_cli.statistics.pair_accuracy import PairAccuracy
from sparserm_cli.store.artifacts.reward import Metric

Figure = dict[str, Any]

BLUE, ORANGE, GREY, VIOLET = "#3b82d6", "#e0762f", "#8b95a5", "#8f6fd8"
DRAWN_PAIRS = 2000
"""Largest number of points in a scatter of pairs."""
_BINS = 60
AXES = ("xaxis", "yaxis")
_FONT = 'system-ui, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif'


def accuracy_figure(metrics: Sequence[Metric]) -> Figure:
    """Draw the accuracy of every scorer on the validation pairs, or on all pairs where there are none."""
    split = "validation" if any(metric.split == "validation" for metric in metrics) else "train"
    shown = [metric for metric in metrics if metric.split == split][::-1]
    points = {
        "type": "scatter",
        "mode": "markers",
        "x": [metric.accuracy for metric in shown],
        "y": [metric.scorer for metric in shown],
        "error_x": {
            **errors_of([(metric.accuracy, metric.low, metric.high) for metric in shown]),
            "color": GREY,
        },
        "marker": {"size": 11, "color": [BLUE if metric is shown[-1] else GREY for metric in shown]},
        "customdata": [[metric.low, metric.high, metric.pairs] for metric in shown],
        "hovertemplate": "%{y}: %{x:.1%}<br>95 % interval %{customdata[0]:.1%} to %{customdata[1]:.1%}"
        "<br>%{customdata[2]:,} pairs<extra></extra>",
    }
    where = "validation pairs" if split == "validation" else "the pairs of the fit"
    layout = layout_of(f"accuracy on {where}", "", height=90 + 34 * len(shown))
    layout["xaxis"] |= {"tickformat": ".0%"}
    layout["yaxis"] |= {"automargin": True, "type": "category"}
    layout["shapes"] = [_line(0.5, 0, 0.5, 1, yref="paper")]
    return {"data": [points], "layout": {**layout, "showlegend": False}}


def score_figure(
    chosen: Float[np.ndarray, " chosen"], rejected: Float[np.ndarray, " rejected"], xlabel: str = "score"
) -> Figure:
    """Draw the distribution of the scores of chosen and of rejected responses."""
    edges = _edges(np.concatenate([chosen, rejected]))
    traces = [
        _bars(name, values, edges, colour)
        for name, values, colour in (("rejected", rejected, ORANGE), ("chosen", chosen, BLUE))
    ]
    layout = layout_of(xlabel, "share of responses")
    layout["yaxis"]["tickformat"] = "~%"
    return {"data": traces, "layout": {**layout, "barmode": "overlay", "bargap": 0}}


def margin_figure(pairs: PairScores) -> Figure:
    """Draw the distribution of the margins of the pairs; a margin above 0 is right."""
    edges = _edges(pairs.margin, through_zero=True)
    sides = (
        ("wrong", pairs.margin[pairs.margin <= 0], ORANGE),
        ("right", pairs.margin[pairs.margin > 0], BLUE),
    )
    traces = [_bars(name, values, edges, colour, len(pairs.margin)) for name, values, colour in sides]
    layout = layout_of("chosen score less rejected score", "share of pairs")
    layout["yaxis"]["tickformat"] = "~%"
    return {"data": traces, "layout": {**layout, "barmode": "overlay", "bargap": 0}}


def reliability_figure(reliabilities: Mapping[str, Reliability]) -> Figure:
    """Draw accuracy against confidence, with one line per set of pairs."""
    colours = dict(zip(reliabilities, (BLUE, GREY, VIOLET), strict=False))
    traces = []
    for name, reliability in reliabilities.items():
        accuracies = [bin_.right for bin_ in reliability.bins]
        trace = _accuracies(name, [bin_.confidence for bin_ in reliability.bins], accuracies, colours[name])
        traces.append({**trace, "mode": "lines+markers"})
    layout = layout_of("confidence of the reward model", "how often it is right")
    for axis in AXES:
        layout[axis]["tickformat"] = ".0%"
    layout["shapes"] = [_line(0.5, 0.5, 1, 1)]
    return {"data": traces, "layout": layout}


def length_figure(pairs: PairScores, bias: LengthBias) -> Figure:
    """Draw margins against differences in length: a sample of the pairs, and the means of all."""
    taken = sample(len(pairs.margin), DRAWN_PAIRS)
    points = {
        "type": "scatter",
        "mode": "markers",
        "name": "pairs",
        "x": pairs.length[taken].tolist(),
        "y": rounded(pairs.margin[taken]),
        "marker": {"size": 4, "color": GREY, "opacity": 0.5},
        "hovertemplate": "%{x:+} tokens, %{y:+.2f}<extra></extra>",
    }
    means = {
        "type": "scatter",
        "mode": "lines+markers",
        "name": "mean",
        "x": [bin_.length for bin_ in bias.bins],
        "y": [bin_.margin for bin_ in bias.bins],
        "marker": {"size": 9, "color": BLUE},
        "hovertemplate": "%{x:+.1f} tokens: mean margin %{y:+.2f}<extra></extra>",
    }
    layout = layout_of("chosen length less rejected length (tokens)", "chosen score less rejected score")
    layout["shapes"] = [_line(0, 0, 1, 0, xref="paper"), _line(0, 0, 0, 1, yref="paper")]
    return {"data": [points, means], "layout": layout}


def length_accuracy_figure(biases: Mapping[str, LengthBias]) -> Figure:
    """Draw accuracy against difference in length, with one line per set of pairs."""
    traces = []
    for (name, bias), colour in zip(biases.items(), (BLUE, GREY), strict=False):
        lengths, right = [bin_.length for bin_ in bias.bins], [bin_.right for bin_ in bias.bins]
        trace = _accuracies(name, lengths, right, colour, "%{x:+.1f} tokens")
        traces.append({**trace, "mode": "lines+markers"})
    layout = layout_of("chosen length less rejected length (tokens)", "how often it is right")
    layout["yaxis"] |= {"tickformat": ".0%"}
    layout["shapes"] = [_line(0, 0.5, 1, 0.5, xref="paper"), _line(0, 0, 0, 1, yref="paper")]
    return {"data": traces, "layout": layout}


def layout_of(xlabel: str, ylabel: str, height: int = 340) -> Figure:
    """Return the layout that all figures share."""
    axis = {"zeroline": False, "showline": True, "ticks": "outside", "ticklen": 4}
    return {
        "height": height,
        "font": {"family": _FONT, "size": 12},
        "margin": {"l": 64, "r": 16, "t": 28, "b": 52},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "xaxis": {**axis, "title": {"text": xlabel}},
        "yaxis": {**axis, "title": {"text": ylabel}},
        "legend": {"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom"},
        "hovermode": "closest",
    }


def _line(x0: float, y0: float, x1: float, y1: float, **more: str) -> Figure:
    """Return a thin dashed line."""
    style = {"color": GREY, "width": 1, "dash": "dash"}
    return {
        "type": "line",
        "layer": "between",
        "x0": x0,
        "y0": y0,
        "x1": x1,
        "y1": y1,
        "line": style,
        **more,
    }


def errors_of(values: Sequence[tuple[float, float, float]]) -> Figure:
    """Return error bars from value, low and high."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [max(0.0, high - value) for value, _, high in values],
        "arrayminus": [max(0.0, value - low) for value, low, _ in values],
        "thickness": 1.2,
        "width": 3,
    }


def _accuracies(
    name: str, x: Sequence[float], accuracies: Sequence[PairAccuracy], colour: str, shown: str = "%{x:.1%}"
) -> Figure:
    """Return points of accuracy with their intervals."""
    return {
        "type": "scatter",
        "name": name,
        "x": list(x),
        "y": [accuracy.accuracy for accuracy in accuracies],
        "error_y": errors_of([(accuracy.accuracy, accuracy.low, accuracy.high) for accuracy in accuracies]),
        "marker": {"size": 8, "color": colour},
        "line": {"color": colour, "width": 1.5},
        "customdata": [[accuracy.low, accuracy.high, accuracy.pairs] for accuracy in accuracies],
        "hovertemplate": shown + ": right %{y:.1%}<br>95 % interval %{customdata[0]:.1%} to "
        "%{customdata[1]:.1%}<br>%{customdata[2]:,} pairs<extra></extra>",
    }


def _edges(
    values: Float[np.ndarray, " values"], *, through_zero: bool = False
) -> Float[np.ndarray, " edges"]:
    """Return the edges of the bins that hold all values."""
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    width = (high - low) / _BINS or 1.0
    if not through_zero:
        return low + width * np.arange(_BINS + 1)
    first, last = int(np.floor(low / width)), int(np.ceil(high / width))
    return width * np.arange(min(first, -1), max(last, 1) + 1)


def _bars(
    name: str,
    values: Float[np.ndarray, " values"],
    edges: Float[np.ndarray, " edges"],
    colour: str,
    whole: int = 0,
) -> Figure:
    """Return the counts in bins as shares of `whole`, or of all values."""
    # The top edge is the largest value up to rounding, so values beyond it belong to the last bin.
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), bins=edges)
    return {
        "type": "bar",
        "name": f"{name} ({len(values):,})",
        "x": rounded((edges[:-1] + edges[1:]) / 2),
        "y": rounded(counts / max(whole or len(values), 1)),
        "width": float(edges[1] - edges[0]),
        "marker": {"color": colour, "opacity": 0.6, "line": {"width": 0}},
        "hovertemplate": "%{x:.2f}: %{y:.1%}<extra></extra>",
    }


def sample(count: int, most: int) -> Int64[np.ndarray, " taken"]:
    """Return up to `most` of the numbers below `count`: a fixed random sample, ascending."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).choice(count, most, replace=False))


def rounded(values: Float[np.ndarray, " values"] | Float32[np.ndarray, " values"]) -> list[float]:
    """Return numbers with five digits, enough to be drawn."""
    return [float(f"{value:.5g}") for value in values]
