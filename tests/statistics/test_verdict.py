"""The sentence about a scorer beside its controls."""

import pytest

from sparserm_cli.statistics.verdict import Gap, gaps, smallest_difference, too_few, verdict

ACCURACY = {"accuracy": 0.886, "low": 0.81, "high": 0.95}


@pytest.mark.parametrize(
    ("low", "high", "standing"),
    [(0.01, 0.2, "ahead of"), (0.0, 0.2, "level with"), (-0.2, 0.0, "level with"), (-0.2, -0.01, "behind")],
)
def test_the_interval_decides(low, high, standing):
    """An end at zero is level."""
    assert Gap("dense", 0.0, low, high).standing == standing


def test_a_verdict_names_every_control_by_its_standing():
    """The widest interval has half a width of 14 points, and 2.8 / 1.96 of it is 20."""
    against = gaps(
        {
            "length only": {"value": 0.532, "low": 0.392, "high": 0.672, "p": 0.0},
            "dense": {"value": 0.05, "low": -0.02, "high": 0.12},
            "means": {"value": -0.1, "low": -0.15, "high": -0.05},
        }
    )
    assert verdict(ACCURACY, "79 pairs", 40, against) == (
        "verdict: the reward has 88.6 % (81.0 to 95.0) of 79 pairs of 40 prompts right; "
        "it is ahead of length only (+53.2 points, +39.2 to +67.2); "
        "it is level with dense (+5.0 points, -2.0 to +12.0; 10.0 would be told apart); "
        "it is behind means (-10.0 points, -15.0 to -5.0); "
        "with 40 prompts a difference of about 20 points can be told apart"
    )
    brief = verdict(ACCURACY, "79 pairs", 40, against, brief=True)
    assert "ahead of length only; it is level with dense (10.0 points would be told apart); it is" in brief


def test_few_prompts_are_said_to_be_few():
    """All of two pairs right never stands alone."""
    text = verdict({"accuracy": 1.0, "low": 0.34, "high": 1.0}, "2 pairs", 2, [Gap("dense", 0.5, -0.2, 1.0)])
    assert text == (
        "verdict: the reward has 100.0 % (34.0 to 100.0) of 2 pairs of 2 prompts right; "
        "it is level with dense (+50.0 points, -20.0 to +100.0; 85.7 would be told apart); "
        "2 prompts are too few to rely on (at least 30 are wanted)"
    )
    assert too_few(29) == "29 prompts are too few to rely on (at least 30 are wanted)"
    assert too_few(30) == ""


def test_scorers_that_never_disagree_say_nothing_of_what_can_be_told_apart():
    """An interval of 0 to 0 has no width."""
    assert smallest_difference([Gap("dense", 0.0, 0.0, 0.0)]) is None
    assert smallest_difference([]) is None
    text = verdict(ACCURACY, "79 pairs", 40, [Gap("dense", 0.0, 0.0, 0.0)])
    assert text.endswith("it is level with dense (+0.0 points, +0.0 to +0.0)")
