"""Drawing a figure: axes by hand, every trace is there, nothing of a name can end an element."""

import re
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from sparserm_cli.analysis.report.figures.axes import Axis, axis_of, number_as
from sparserm_cli.analysis.report.figures.base import accuracy_figure, layout_of, score_figure
from sparserm_cli.analysis.report.figures.svg import MANY, figure_svg
from sparserm_cli.store.artifacts.reward import Metric


def parse(drawn: str) -> ET.Element:
    """Read a drawing as XML, which fails on anything that is not escaped."""
    return ET.fromstring(drawn)  # noqa: S314


def points(count: int, **more: object) -> dict:
    """Give a figure of points on a line."""
    x = list(np.linspace(0, 1, count))
    trace = {
        "type": "scatter",
        "mode": "markers",
        "name": "a <b> & c",
        "x": x,
        "y": x,
        "marker": {"size": 4, "color": "#123456"},
        "hovertemplate": "%{x:.0%} of <one><br>%{customdata[0]}<extra></extra>",
        "customdata": [["&"]] * count,
    }
    return {"data": [trace], "layout": {**layout_of("x <axis>", "y"), **more}}


def test_an_axis_by_hand():
    """From 0 to 10 on 100 pixels, ticks at multiples of 2; names stand in the middle of their places."""
    axis = Axis(0.0, 10.0, 0.0, 100.0)
    assert axis.at(2.5) == 25.0
    assert axis.ticks() == [(0.0, "0"), (20.0, "2"), (40.0, "4"), (60.0, "6"), (80.0, "8"), (100.0, "10")]
    names = axis_of({"type": "category"}, ["a", "b", "a"], 0.0, 100.0)
    assert names.ticks() == [(25.0, "a"), (75.0, "b")]
    powers = axis_of({"tickformat": "~%"}, [], 0.0, 100.0, logarithmic=True)
    assert [label for _, label in powers.ticks()] == ["0.01 %", "0.1 %", "1 %", "10 %", "100 %"]
    assert powers.at(0.01) == 50.0


@pytest.mark.parametrize(
    ("shown", "value", "expected"),
    [
        ("~%", 0.125, "12.5 %"),
        (".0%", 0.5, "50 %"),
        ("+.2f", -1.5, "-1.50"),
        ("", -2.0, "−2"),
        (",", 1200, "1,200"),
    ],
)
def test_numbers_are_written_as_asked(shown: str, value: float, expected: str):
    """Python's formats, and one that drops zeros."""
    assert number_as(shown, value) == expected


def test_points_carry_their_text_and_names_are_escaped():
    """Three circles with titles; what could end an element is escaped."""
    root = parse(figure_svg(points(3), 'What "it" shows'))
    assert root.get("aria-label") == 'What "it" shows'
    circles = [element for element in root.iter() if element.tag == "circle" and len(element)]
    assert [circle[0].text for circle in circles] == [
        "0 % of <one>\n&",
        "50 % of <one>\n&",
        "100 % of <one>\n&",
    ]
    texts = [element.text for element in root.iter("text")]
    assert "a <b> & c" in texts
    assert "x <axis>" in texts


def test_many_points_are_one_path():
    """A trace of thousands of points stays small, without text under the pointer."""
    drawn = figure_svg(points(MANY + 1), "many")
    assert "<title>" not in drawn
    (path,) = re.findall(r'class="dots" d="([^"]*)"', drawn)
    assert path.count("M") == MANY + 1


def test_error_bars_reach_from_low_to_high():
    """The accuracy of one scorer: the bar spans its interval on the axis."""
    figure = accuracy_figure([Metric("reward", "validation", 0.5, 0.25, 1.0, 8, 0)])
    drawn = figure_svg(figure, "accuracy")
    first, last = map(float, re.findall(r'd="M([\d.]+) [\d.]+v6m0 -3H([\d.]+)m', drawn)[0])
    (middle,) = [float(x) for x in re.findall(r'circle cx="([\d.]+)"', drawn)]
    assert (middle - first) / (last - first) == pytest.approx(1 / 3, abs=0.01)


def test_bars_have_the_height_of_their_share():
    """Two bins hold one half of the chosen responses each; both bars are equally tall."""
    figure = score_figure(np.array([0.0, 1.0]), np.array([0.0, 0.0]))
    root = parse(figure_svg(figure, "scores"))
    heights = sorted(float(bar.get("height")) for bar in root.iter("rect"))
    assert heights[0] == heights[1] == pytest.approx(heights[2] / 2, abs=0.1)


def test_two_kinds_of_axes_stand_behind_one_button():
    """The second drawing, on logarithmic axes, is hidden until it is asked for."""
    drawn = figure_svg(points(3, updatemenus=[{}]), "rates")
    assert drawn.count("<svg") == 2
    assert '<div hidden><svg class="plot"' in drawn
