"""Log-odds of words and balanced accuracies: worked out by hand, and as they must behave."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparserm_cli.statistics.names import balanced_accuracy, log_odds_z


def test_log_odds_by_hand() -> None:
    """Counts 3 and 1 against 1 and 3 with a prior of 1 each: odds 4/2 and 2/4, variance 1/4 + 1/2."""
    z = log_odds_z(np.array([3, 1]), np.array([1, 3]), np.array([1.0, 1.0]))
    expected = (math.log(4 / 2) - math.log(2 / 4)) / math.sqrt(1 / 4 + 1 / 2)
    assert z == pytest.approx([expected, -expected])


def test_a_prior_takes_weight_from_rare_words() -> None:
    """A word seen once and never elsewhere says less than one seen thirty times against ten."""
    z = log_odds_z(np.array([1, 30, 100]), np.array([0, 10, 100]), np.array([0.1, 4.0, 20.0]))
    assert z[1] > z[0] > 0


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=2, max_size=9))
def test_log_odds_turn_with_the_sides(pairs: list[tuple[int, int]]) -> None:
    """Swapping both sets turns every sign."""
    first, second = np.array(pairs).T
    prior = np.full(len(pairs), 0.5)
    np.testing.assert_allclose(log_odds_z(first, second, prior), -log_odds_z(second, first, prior))


def test_balanced_accuracy_by_hand() -> None:
    """8 of 10 and 6 of 10: Wilson's intervals are 0.490 to 0.943 and 0.313 to 0.832."""
    accuracy = balanced_accuracy(8, 10, 6, 10)
    assert accuracy.value == pytest.approx(0.7)
    low = 0.7 - math.hypot(0.8 - 0.490, 0.6 - 0.313) / 2
    high = 0.7 + math.hypot(0.943 - 0.8, 0.832 - 0.6) / 2
    assert (accuracy.low, accuracy.high) == pytest.approx((low, high), abs=1e-3)
    assert not accuracy.beats_chance
    assert balanced_accuracy(80, 100, 60, 100).beats_chance


def test_few_contexts_never_make_an_interval_a_point() -> None:
    """One context of each kind, both right: nothing is known; without one kind nothing ever is."""
    assert balanced_accuracy(1, 1, 1, 1).low < 0.5
    empty = balanced_accuracy(50, 50, 0, 0)
    assert empty.value == pytest.approx(0.75)
    assert not empty.beats_chance


def test_a_test_that_says_yes_to_everything_is_chance() -> None:
    """All contexts with firing and none of the others are recognised."""
    accuracy = balanced_accuracy(200, 200, 0, 200)
    assert accuracy.value == 0.5
    assert not accuracy.beats_chance
