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
    found = reliability(margins, np.arange(40))
    assert [one.confidence for one in found.bins] == pytest.approx([0.75, 0.9])
    assert [one.right.accuracy for one in found.bins] == [0.5, 1.0]
    assert [one.right.pairs for one in found.bins] == [20, 20]
    assert found.error == pytest.approx((0.25 + 0.1) / 2)


def test_a_tie_is_wrong_and_half_confident() -> None:
    """A margin of 0."""
    found = reliability(np.zeros(5), np.arange(5))
    assert (found.bins[0].confidence, found.bins[0].right.accuracy, found.error) == (0.5, 0.0, 0.5)


def test_no_pairs_have_no_calibration() -> None:
    """Nothing is made up."""
    found = reliability(np.empty(0), np.empty(0, np.int64))
    assert found.bins == ()
    assert math.isnan(found.error)


@given(st.lists(st.floats(-30, 30), min_size=1, max_size=120))
def test_bins_hold_every_pair_once(values: list[float]) -> None:
    """As even in number as they can be, rising in confidence, and read back from JSON as they were."""
    found = reliability(np.array(values), np.arange(len(values)))
    counts = [one.right.pairs for one in found.bins]
    assert sum(counts) == len(values)
    assert max(counts) - min(counts) <= 1
    assert sorted(one.confidence for one in found.bins) == [one.confidence for one in found.bins]
    assert 0 <= found.error <= 1
    assert reliability_from(json.loads(json.dumps(to_json(found)))) == found


def test_length_bias_of_a_scorer_that_sees_length_alone() -> None:
    """Its margin is the length difference: right exactly where the chosen response is longer."""
    lengths = np.repeat(np.arange(-5, 6), 4)
    found = length_bias(lengths.astype(float), lengths, np.arange(44))
    assert found.correlation == pytest.approx(1.0)
    assert (found.longer.accuracy, found.shorter.accuracy, found.equal.accuracy) == (1.0, 0.0, 0.0)
    assert (found.longer.pairs, found.shorter.pairs, found.equal.pairs) == (20, 20, 4)
    assert sum(one.right.pairs for one in found.bins) == 44
    assert [one.length for one in found.bins] == [one.margin for one in found.bins]
    assert sorted(one.length for one in found.bins) == [one.length for one in found.bins]


def test_rank_correlation_by_hand() -> None:
    """Ranks 1, 2.5, 2.5, 4 against 2, 1, 3, 4: covariance 3, variances 4.5 and 5 (all times 4)."""
    found = length_bias(np.array([0.2, 0.1, 0.3, 9.0]), np.array([-2, 0, 0, 7]), np.arange(4))
    assert found.correlation == pytest.approx(3 / math.sqrt(4.5 * 5))


def test_constant_lengths_have_no_correlation() -> None:
    """NaN, which JSON has as null."""
    found = length_bias(np.array([1.0, -1.0, 2.0]), np.zeros(3, np.int64), np.arange(3))
    assert math.isnan(found.correlation)
    assert len(found.bins) == 1
    told = to_json(found)
    assert told["correlation"] is None
    assert told["longer"]["accuracy"] is None
    again = length_bias_from(json.loads(json.dumps(told, allow_nan=False)))
    assert math.isnan(again.correlation)
    assert math.isnan(again.longer.accuracy)
    assert (again.equal, again.bins) == (found.equal, found.bins)
