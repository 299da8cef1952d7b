"""A figure as one SVG element, drawn when the page is made, so that the page needs no library to show it.

Figures are described in plotly's JSON. Of that, this module draws what the report uses: points, lines, bars,
error bars, thin lines, and linear, logarithmic and named axes. Text under the pointer is a point's `title`.
"""

import re
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any, NamedTuple

from sparserm_cli.analysis.report.figures.axes import Axis, axis_of, number_as
from sparserm_cli.analysis.report.figures.base import Figure

WIDTH = 600.0
"""Width of a drawing in its own units; the page scales it."""
MANY = 400
"""Largest number of points that have a text under the pointer; a trace of more points is one path."""
_DASHES = {"dash": "7 4", "dot": "2 3"}
_CHARACTER = 7.2  # mean width of a letter, in units of the drawing


class Frame(NamedTuple):
    """The area of the data and its axes."""

    x: Axis
    """The horizontal axis."""
    y: Axis
    """The vertical axis."""
    height: float
    """Height of the whole drawing."""


def figure_svg(figure: Figure, label: str) -> str:
    """Return a figure as HTML: one SVG element, or two between which buttons switch (linear or logarithmic).

    Args:
        figure: the figure to draw.
        label: description of the figure, for people who cannot see it.

    """
    drawn = _drawing(figure, label, logarithmic=False)
    if "updatemenus" not in figure["layout"]:
        return drawn
    other = _drawing(figure, f"{label} Logarithmic axes.", logarithmic=True)
    return (
        f'<div class="scales"><button type="button" class="toggle">logarithmic axes</button>'
        f"<div>{drawn}</div><div hidden>{other}</div></div>"
    )


def _drawing(figure: Figure, label: str, *, logarithmic: bool) -> str:
    """Return one SVG element."""
    frame, legend = _frame(figure, logarithmic=logarithmic)
    parts = [*_axes(frame, figure["layout"]), *_legend(legend)]
    parts += [_reference(shape, frame) for shape in figure["layout"].get("shapes", ())]
    for trace in figure["data"]:
        parts += _bars(trace, frame) if trace["type"] == "bar" else _scatter(trace, frame)
    return (
        f'<svg class="plot" viewBox="0 0 {WIDTH:g} {frame.height:g}" role="img" aria-label="{escape(label)}">'
        f"{''.join(parts)}</svg>"
    )


Entry = tuple[float, float, Mapping[str, Any]]
"""Left and baseline of an entry of the legend, and its trace."""


def _frame(figure: Figure, *, logarithmic: bool) -> tuple[Frame, list[Entry]]:
    """Lay out the axes and the legend."""
    layout, data = figure["layout"], figure["data"]
    entries: list[Entry] = []
    across, row = 70.0, 0
    for trace in data if layout.get("showlegend", True) else ():
        if not trace.get("showlegend", True) or not trace.get("name"):
            continue
        width = 34 + _CHARACTER * len(trace["name"])
        if entries and across + width > WIDTH:
            across, row = 70.0, row + 1
        entries.append((across, 16.0 + 20 * row, trace))
        across += width
    top = 14.0 + (20 * (row + 1) if entries else 0)
    spread: dict[str, list[Any]] = {"x": [], "y": []}
    for trace in data:
        if trace.get("hoverinfo") != "skip":
            for name in spread:
                spread[name] += _reach(trace, name)
    names = [str(value) for value in spread["y"]] if layout["yaxis"].get("type") == "category" else []
    left = 14 + _CHARACTER * max((len(name) for name in names), default=7)
    plot = float(layout["height"]) - (28 if "showlegend" in layout else 60)
    height = top + plot
    y = axis_of(layout["yaxis"], spread["y"], height - 50, top, logarithmic=logarithmic)
    x = axis_of(layout["xaxis"], spread["x"], left, WIDTH - 16, logarithmic=logarithmic)
    return Frame(x, y, height), entries


def _reach(trace: Mapping[str, Any], name: str) -> list[Any]:
    """Return the values of a trace along one axis, with the ends of its error bars and bars."""
    values = list(trace[name])
    if bars := trace.get(f"error_{name}"):
        values += [value + more for value, more in zip(trace[name], bars["array"], strict=True)]
        values += [value - less for value, less in zip(trace[name], bars["arrayminus"], strict=True)]
    if trace["type"] == "bar":
        half = trace["width"] / 2
        values += [0.0] if name == "y" else [trace["x"][0] - half, trace["x"][-1] + half]
    return values


def _axes(frame: Frame, layout: Mapping[str, Any]) -> Iterator[str]:
    """Yield grid, ticks, labels and titles."""
    x, y = frame.x, frame.y
    for at, label in x.ticks():
        yield f'<path class="grid" d="M{at:.1f} {y.end:.1f}V{y.begin:.1f}"/>'
        yield f'<text x="{at:.1f}" y="{y.begin + 18:.1f}" text-anchor="middle">{escape(label)}</text>'
    for at, label in y.ticks():
        yield f'<path class="grid" d="M{x.begin:.1f} {at:.1f}H{x.end:.1f}"/>'
        yield f'<text x="{x.begin - 7:.1f}" y="{at + 4:.1f}" text-anchor="end">{escape(label)}</text>'
    yield f'<path class="axis" d="M{x.begin:.1f} {y.end:.1f}V{y.begin:.1f}H{x.end:.1f}"/>'
    middle = (x.begin + x.end) / 2
    title = escape(layout["xaxis"]["title"]["text"])
    yield f'<text x="{middle:.1f}" y="{frame.height - 8:.1f}" text-anchor="middle">{title}</text>'
    if title := escape(layout["yaxis"]["title"]["text"]):
        middle = (y.begin + y.end) / 2
        yield f'<text transform="translate(12 {middle:.1f}) rotate(-90)" text-anchor="middle">{title}</text>'


def _legend(entries: list[Entry]) -> Iterator[str]:
    """Yield a mark and the name of each trace."""
    for left, base, trace in entries:
        marker, line = trace.get("marker", {}), trace.get("line")
        if line:
            dash = _dash(line)
            colour = f'stroke="{line["color"]}" stroke-width="{line.get("width", 1.5)}"{dash}'
            yield f'<path d="M{left:.1f} {base - 4:.1f}h18" fill="none" {colour}/>'
        else:
            size = min(float(marker.get("size", 9)), 9)
            yield _mark(left + 9, base - 4, size, str(marker.get("color")), marker)
        yield f'<text x="{left + 24:.1f}" y="{base:.1f}">{escape(trace["name"])}</text>'


def _reference(shape: Mapping[str, Any], frame: Frame) -> str:
    """Return a thin line, in values or in shares of the drawing."""

    def place(axis: Axis, name: str, number: int) -> float:
        value = shape[f"{name}{number}"]
        if shape.get(f"{name}ref") == "paper":
            return axis.begin + (axis.end - axis.begin) * float(value)
        if axis.categories:  # numbers stand for places between names
            return axis.begin + (axis.end - axis.begin) * (float(value) + 0.5) / len(axis.categories)
        return axis.at(value)

    ends = [(place(frame.x, "x", number), place(frame.y, "y", number)) for number in (0, 1)]
    drawn = "L".join(f"{across:.1f} {down:.1f}" for across, down in ends)
    return f'<path class="reference" d="M{drawn}"/>'


def _bars(trace: Mapping[str, Any], frame: Frame) -> Iterator[str]:
    """Yield the bars of a histogram."""
    marker, half = trace["marker"], trace["width"] / 2
    yield f'<g fill="{marker["color"]}" fill-opacity="{marker.get("opacity", 1)}">'
    for number, (centre, value) in enumerate(zip(trace["x"], trace["y"], strict=True)):
        if value:
            left, right, top = frame.x.at(centre - half), frame.x.at(centre + half), frame.y.at(value)
            box = (
                f'x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{frame.y.begin - top:.1f}"'
            )
            yield f"<rect {box}>{_title(trace, number)}</rect>"
    yield "</g>"


def _scatter(trace: Mapping[str, Any], frame: Frame) -> Iterator[str]:
    """Yield lines, error bars and points."""
    mode, line = trace.get("mode", "lines"), trace.get("line", {})
    points = [
        (number, frame.x.at(x), frame.y.at(y))
        for number, (x, y) in enumerate(zip(trace["x"], trace["y"], strict=True))
        if trace.get("hoverinfo") == "skip" or (frame.x.holds(x) and frame.y.holds(y))
    ]
    if "lines" in mode and points:
        drawn = "L".join(f"{x:.1f} {y:.1f}" for _, x, y in points)
        style = f'stroke="{line.get("color")}" stroke-width="{line.get("width", 1.5)}"{_dash(line)}'
        yield f'<path d="M{drawn}" fill="none" {style}/>'
    for name, across in (("error_x", True), ("error_y", False)):
        if name in trace:
            yield _error_bars(trace, frame, points, across=across)
    if "markers" in mode:
        marker = trace["marker"]
        size, colours = float(marker.get("size", 6)), marker["color"]
        if len(points) > MANY:
            drawn = "".join(f"M{x:.1f} {y:.1f}h0" for _, x, y in points)
            style = f'stroke="{colours}" stroke-width="{size:g}" stroke-opacity="{marker.get("opacity", 1)}"'
            yield f'<path class="dots" d="{drawn}" {style}/>'
            return
        for number, x, y in points:
            colour = colours if isinstance(colours, str) else colours[number]
            yield _mark(x, y, size, colour, marker, _title(trace, number))


def _error_bars(
    trace: Mapping[str, Any], frame: Frame, points: list[tuple[int, float, float]], *, across: bool
) -> str:
    """Return the error bars of a trace as one path."""
    bars = trace["error_x" if across else "error_y"]
    colour = bars.get("color") or trace.get("marker", {}).get("color")
    drawn = []
    for number, x, y in points:
        more, less = bars["array"][number], bars["arrayminus"][number]
        if across:
            value = trace["x"][number]
            first, last = frame.x.at(value - less), frame.x.at(value + more)
            drawn.append(f"M{first:.1f} {y - 3:.1f}v6m0 -3H{last:.1f}m0 -3v6")
        else:
            value = trace["y"][number]
            first, last = frame.y.at(value - less), frame.y.at(value + more)
            drawn.append(f"M{x - 3:.1f} {first:.1f}h6m-3 0V{last:.1f}m-3 0h6")
    return f'<path d="{"".join(drawn)}" fill="none" stroke="{colour}" stroke-width="1.3"/>'


def _mark(x: float, y: float, size: float, colour: str, marker: Mapping[str, Any], inside: str = "") -> str:
    """Return one point: a circle or a triangle."""
    half, faint = size / 2, f' fill-opacity="{marker["opacity"]}"' if "opacity" in marker else ""
    symbol = marker.get("symbol", "circle")
    if symbol == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{half:g}" fill="{colour}"{faint}>{inside}</circle>'
    up = half if symbol == "triangle-up" else -half
    shape = f"M{x - half:.1f} {y + up:.1f}h{size:g}L{x:.1f} {y - up:.1f}z"
    return f'<path d="{shape}" fill="{colour}"{faint}>{inside}</path>'


def _dash(line: Mapping[str, Any]) -> str:
    """Return the attribute of a dashed line."""
    pattern = _DASHES.get(line.get("dash", ""))
    return f' stroke-dasharray="{pattern}"' if pattern else ""


def _title(trace: Mapping[str, Any], number: int) -> str:
    """Return the text under the pointer, from the trace's template."""
    template = trace.get("hovertemplate")
    if not template:
        return ""

    def value(match: re.Match[str]) -> str:
        name, shown = match[1], match[2] or ""
        if name == "fullData.name":
            return str(trace["name"])
        if name.startswith("customdata"):
            entry = trace["customdata"][number][int(name[11:-1])]
        else:
            entry = trace[name][number]
        return entry if isinstance(entry, str) else number_as(shown, entry)

    text = re.sub(r"%\{([\w.\[\]]+)(?::([^}]*))?\}", value, template.replace("<extra></extra>", ""))
    return f"<title>{escape(text.replace('<br>', chr(10)))}</title>"
