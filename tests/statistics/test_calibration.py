"""Calibration and length bias, on numbers that can be checked by hand."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparserm_cli.statistics.calibration import (
    length_bias,
    length_bias_from,
    reliability,
    reliability_from,
    to_json,
)


def test_reliability_of_two_sizes_of_margin() -> None:
    """Twenty margins of log 3 (confidence 3/4), half of them right; twenty of log 9 (9/10), all right."""
    small = np.log(3) * np.where(np.arange(20) % 2, 1.0, -1.0)
    margins = np.concatenate([np.full(20, np.log(9)), small])
    calibration = reliability(margins, np.arange(40))
    assert [bin_.confidence for bin_ in calibration.bins] == pytest.approx([0.75, 0.9])
    assert [bin_.right.accuracy for bin_ in calibration.bins] == [0.5, 1.0]
    assert [bin_.right.pairs for bin_ in calibration.bins] == [20, 20]
    assert calibration.error == pytest.approx((0.25 + 0.1) / 2)


def test_a_tie_is_wrong_and_half_confident() -> None:
    """A margin of 0."""
    calibration = reliability(np.zeros(5), np.arange(5))
    assert (calibration.bins[0].confidence, calibration.bins[0].right.accuracy, calibration.error) == (
        0.5,
        0.0,
        0.5,
    )


def test_no_pairs_have_no_calibration() -> None:
    """Nothing is made up."""
    calibration = reliability(np.empty(0), np.empty(0, np.int64))
    assert calibration.bins == ()
    assert math.isnan(calibration.error)


@given(st.lists(st.floats(-30, 30), min_size=1, max_size=120))
def test_bins_hold_every_pair_once(values: list[float]) -> None:
    """As even in number as they can be, rising in confidence, and read back from JSON as they were."""
    calibration = reliability(np.array(values), np.arange(len(values)))
    counts = [bin_.right.pairs for bin_ in calibration.bins]
    assert sum(counts) == len(values)
    assert max(counts) - min(counts) <= 1
    assert sorted(bin_.confidence for bin_ in calibration.bins) == [
        bin_.confidence for bin_ in calibration.bins
    ]
    assert 0 <= calibration.error <= 1
    assert reliability_from(json.loads(json.dumps(to_json(calibration)))) == calibration


def test_length_bias_of_a_scorer_that_sees_length_alone() -> None:
    """Its margin is the length difference: right exactly where the chosen response is longer."""
    lengths = np.repeat(np.arange(-5, 6), 4)
    bias = length_bias(lengths.astype(float), lengths, np.arange(44))
    assert bias.correlation == pytest.approx(1.0)
    assert (bias.longer.accuracy, bias.shorter.accuracy, bias.equal.accuracy) == (1.0, 0.0, 0.0)
    assert (bias.longer.pairs, bias.shorter.pairs, bias.equal.pairs) == (20, 20, 4)
    assert sum(bin_.right.pairs for bin_ in bias.bins) == 44
    assert [bin_.length for bin_ in bias.bins] == [bin_.margin for bin_ in bias.bins]
    assert sorted(bin_.length for bin_ in bias.bins) == [bin_.length for bin_ in bias.bins]


def test_rank_correlation_by_hand() -> None:
    """Ranks 1, 2.5, 2.5, 4 against 2, 1, 3, 4: covariance 3, variances 4.5 and 5 (all times 4)."""
    bias = length_bias(np.array([0.2, 0.1, 0.3, 9.0]), np.array([-2, 0, 0, 7]), np.arange(4))
    assert bias.correlation == pytest.approx(3 / math.sqrt(4.5 * 5))


def test_constant_lengths_have_no_correlation() -> None:
    """NaN, which JSON has as null."""
    bias = length_bias(np.array([1.0, -1.0, 2.0]), np.zeros(3, np.int64), np.arange(3))
    assert math.isnan(bias.correlation)
    assert len(bias.bins) == 1
    record = to_json(bias)
    assert record["correlation"] is None
    assert record["longer"]["accuracy"] is None
    again = length_bias_from(json.loads(json.dumps(record, allow_nan=False)))
    assert math.isnan(again.correlation)
    assert math.isnan(again.longer.accuracy)
    assert (again.equal, again.bins) == (bias.equal, bias.bins)
