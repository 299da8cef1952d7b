"""The figures: properties that plotly knows, numbers that are right, sizes that do not grow with the data."""

import json
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from sparserm_cli.analysis.report.content.stored_scores import PairScores
from sparserm_cli.analysis.report.figures.base import (
    BLUE,
    DRAWN_PAIRS,
    accuracy_figure,
    length_accuracy_figure,
    length_figure,
    margin_figure,
    reliability_figure,
    score_figure,
)
from sparserm_cli.analysis.report.figures.latents import DRAWN_LATENTS, frequency_figure
from sparserm_cli.statistics.calibration import length_bias, reliability
from sparserm_cli.store.artifacts.directions import LayerDirections
from sparserm_cli.store.artifacts.frequency import LatentStatistics
from sparserm_cli.store.artifacts.reward import Metric


def pairs_of(margins: np.ndarray, lengths: np.ndarray) -> PairScores:
    """Give pairs with these margins and length differences."""
    number = np.arange(len(margins))
    group = number.astype(np.uint64)
    return PairScores(number, number, number, group, margins, lengths)


def measures_of(rate: np.ndarray) -> LatentStatistics:
    """Give measures with these rates and nothing else of note."""
    zeros = np.zeros(rate.shape[1])
    return LatentStatistics(
        rate,
        rate,
        rate,
        np.zeros(rate.shape, np.int64),
        np.zeros((*rate.shape, 2), np.float32),
        rate[0] - rate[1],
        *(zeros for _ in range(7)),
    )


def directions_of(features: list[int], sides: list[int]) -> LayerDirections:
    """Give directions of these latents."""
    count = len(features)
    numbers = {name: np.zeros(count) for name in ("statistic", "rate_chosen", "rate_rejected", "q")}
    rows = np.zeros((count, 4), np.float32)
    return LayerDirections(rows, np.array(features), np.array(sides, np.int8), **numbers)


def test_every_figure_is_one_that_plotly_knows() -> None:
    """Each property has its name and a value of its kind, and all of it is JSON without NaN."""
    rng = np.random.default_rng(0)
    margins, lengths = rng.standard_normal(200), rng.integers(-9, 9, 200)
    pairs, groups = pairs_of(margins, lengths), np.arange(200)
    bias = length_bias(margins, lengths, groups)
    calibration = reliability(margins, groups)
    metric = Metric("reward", "validation", 0.9, 0.8, 0.95, 100)
    figures = [
        accuracy_figure([metric]),
        frequency_figure(3, measures_of(rng.random((2, 50))), directions_of([1, 7, -1], [1, -1, 1])),
        frequency_figure(3, measures_of(rng.random((2, 50))), None),
        score_figure(margins, -margins),
        margin_figure(pairs),
        reliability_figure({"held-out": calibration, "validation": calibration, "training": calibration}),
        length_figure(pairs, bias),
        length_accuracy_figure({"held-out": bias, "fitted": bias}),
    ]
    for figure in figures:
        assert len(go.Figure(json.loads(json.dumps(figure, allow_nan=False))).data) == len(figure["data"]) > 0


def test_an_unknown_property_is_noticed() -> None:
    """The check above can fail."""
    with pytest.raises(ValueError, match="Invalid property"):
        go.Figure({"data": [{"type": "scatter", "colour": "red"}]})


def test_accuracies_stand_with_the_reward_model_on_top() -> None:
    """Validation is shown where there is one; the first scorer is drawn last, which is the top row."""
    metrics = [
        Metric(name, split, value, value - 0.1, value + 0.05, 10)
        for split, low in (("validation", 0.7), ("train", 0.8))
        for name, value in (("reward", low), ("dense", low + 0.01))
    ]
    (points,) = accuracy_figure(metrics)["data"]
    assert (points["y"], points["x"]) == (["dense", "reward"], [0.71, 0.7])
    assert points["error_x"]["array"] == pytest.approx([0.05, 0.05])
    assert points["error_x"]["arrayminus"] == pytest.approx([0.1, 0.1])
    assert points["marker"]["color"][1] == BLUE
    (points,) = accuracy_figure(metrics[2:])["data"]
    assert points["x"] == [0.81, 0.8]


def by_name(figure: dict[str, Any]) -> dict[str, Any]:
    """Return the traces that have a name."""
    return {trace["name"]: trace for trace in figure["data"] if "name" in trace}


def test_latents_stand_at_their_rates_on_their_side() -> None:
    """Rejected across, chosen up; dead latents and random directions are not drawn."""
    rate = np.array([[0.0, 0.5, 0.1, 0.3], [0.0, 0.2, 0.4, 0.3]])
    traces = by_name(frequency_figure(8, measures_of(rate), directions_of([1, 2, -1], [1, -1, -1])))
    points = {
        name: [(trace["customdata"][i][0], trace["x"][i], trace["y"][i]) for i in range(len(trace["x"]))]
        for name, trace in traces.items()
    }
    assert points == {
        "other latents": [(3, 0.3, 0.3)],
        "preferred": [(1, 0.2, 0.5)],
        "dispreferred": [(2, 0.4, 0.1)],
    }
    assert traces["preferred"]["customdata"][0][1] == "+30.00"
    assert "layer 8, feature" in traces["preferred"]["hovertemplate"]


def test_wide_saes_are_drawn_in_part_with_the_largest_differences() -> None:
    """Of 20,000 latents no more than the limit, the most different ones among them, always the same."""
    rng = np.random.default_rng(0)
    measures = measures_of(rng.random((2, 20_000)))
    figure = frequency_figure(8, measures, directions_of([3], [1]))
    drawn = [point[0] for point in by_name(figure)["other latents"]["customdata"]]
    assert len(drawn) == len(set(drawn)) == DRAWN_LATENTS
    assert 3 not in drawn
    largest = set(np.argsort(-np.abs(measures.difference))[: DRAWN_LATENTS // 2].tolist()) - {3}
    assert largest <= set(drawn)
    assert figure == frequency_figure(8, measures, directions_of([3], [1]))


def test_every_score_is_in_one_bin() -> None:
    """Bars are shares of their own side, the largest score included."""
    figure = score_figure(np.array([0.1, 0.7, 1.3, 2.9]), np.array([-1.0, 0.0]))
    assert [sum(trace["y"]) for trace in figure["data"]] == pytest.approx([1, 1])
    assert [trace["name"] for trace in figure["data"]] == ["rejected (2)", "chosen (4)"]


def test_equal_scores_are_drawn() -> None:
    """A range of width 0 still has bins."""
    figure = score_figure(np.zeros(3), np.zeros(2))
    assert [sum(trace["y"]) for trace in figure["data"]] == pytest.approx([1, 1])


@pytest.mark.parametrize("margins", [[-2.0, -0.5, 0.0, 0.25, 3.0], [1.0, 2.0], [-1.0], [0.0], []])
def test_right_and_wrong_margins_never_share_a_bar(margins: list[float]) -> None:
    """An edge lies at 0; shares are of all pairs together."""
    values = np.array(margins)
    figure = margin_figure(pairs_of(values, np.zeros(len(values), np.int64)))
    wrong, right = figure["data"]
    assert sum(wrong["y"]) + sum(right["y"]) == pytest.approx(1.0 if margins else 0.0)
    half = right["width"] / 2
    assert all(x > 0 for x, y in zip(right["x"], right["y"], strict=True) if y)
    assert all(x <= half * 1.01 for x, y in zip(wrong["x"], wrong["y"], strict=True) if y)


def test_many_pairs_are_a_sample_and_the_mean_is_of_all() -> None:
    """The number of points is fixed."""
    rng = np.random.default_rng(0)
    margins, lengths = rng.standard_normal(30_000), rng.integers(-50, 50, 30_000)
    bias = length_bias(margins, lengths, np.arange(30_000) // 100)
    points, means = length_figure(pairs_of(margins, lengths), bias)["data"]
    assert len(points["x"]) == DRAWN_PAIRS
    assert len(means["x"]) == len(bias.bins) == 10
