"""Accuracies, their intervals and comparisons, against numbers worked out by hand and known distributions."""

import numpy as np
import pytest

from sparserm_cli.statistics.pair_accuracy import difference, fold_spread, interval_of_means, pair_accuracy


def test_a_tie_is_wrong_and_counted():
    """Two right, one wrong, one tie, one that is not a number: 2 of 5."""
    accuracy = pair_accuracy(np.array([1.0, 2.0, -1.0, 0.0, np.nan]), np.arange(5))
    assert (accuracy.accuracy, accuracy.pairs, accuracy.prompts, accuracy.ties) == (0.4, 5, 5, 2)


def test_interval_of_single_pairs_is_that_of_a_proportion():
    """70 of 100 prompts: about 0.7 +- 1.96 * sqrt(0.7 * 0.3 / 100) = 0.610 to 0.790."""
    accuracy = pair_accuracy(np.where(np.arange(100) < 70, 1.0, -1.0), np.arange(100))
    assert accuracy.low == pytest.approx(0.610, abs=0.012)
    assert accuracy.high == pytest.approx(0.790, abs=0.012)


def test_pairs_of_one_prompt_count_as_one_observation():
    """Each prompt ten times over gives the same interval as once."""
    once = np.where(np.arange(60) < 40, 1.0, -1.0)
    single = pair_accuracy(once, np.arange(60))
    tenfold = pair_accuracy(np.repeat(once, 10), np.repeat(np.arange(60), 10))
    assert tenfold.pairs == 600
    assert (tenfold.low, tenfold.high) == pytest.approx((single.low, single.high))


def test_an_accuracy_of_one_is_not_certain():
    """20 prompts all right: Wilson's interval over prompts, 0.839 to 1."""
    accuracy = pair_accuracy(np.ones(40), np.repeat(np.arange(20), 2))
    assert accuracy.low == pytest.approx(0.8389, abs=1e-4)
    assert accuracy.high == 1.0


def test_one_prompt_says_little():
    """A single prompt has no spread to draw from; the interval stays wide."""
    accuracy = pair_accuracy(np.array([1.0, -1.0, 1.0, 1.0]), np.zeros(4, int))
    assert accuracy.accuracy == 0.75
    assert accuracy.high - accuracy.low > 0.7


def test_no_pairs():
    """Nothing measured is not a number, with no width pretended."""
    accuracy = pair_accuracy(np.array([]), np.array([], int))
    assert np.isnan(accuracy.accuracy)
    assert (accuracy.low, accuracy.high, accuracy.pairs) == (0.0, 1.0, 0)


def test_intervals_cover_the_truth():
    """Of 200 data sets with prompts of several pairs, about 95 % of the intervals hold the true accuracy."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        prompt_rate = rng.beta(6, 3, 80)
        groups = np.repeat(np.arange(80), 4)
        margins = np.where(rng.random(320) < prompt_rate[groups], 1.0, -1.0)
        accuracy = pair_accuracy(margins, groups)
        held += accuracy.low <= 6 / 9 <= accuracy.high
    assert 180 <= held <= 198


def test_difference_by_hand():
    """Scorer a wins 30 pairs that b loses and loses 10 that b wins, of 100: 0.2, z = 20 / 6."""
    a = np.concatenate([np.ones(30), -np.ones(10), np.ones(40), -np.ones(20)])
    b = np.concatenate([-np.ones(30), np.ones(10), np.ones(40), -np.ones(20)])
    gap = difference(a, b, np.arange(100))
    assert gap.value == pytest.approx(0.2)
    spread = np.sqrt(30 * 0.8**2 + 10 * 1.2**2 + 60 * 0.2**2)  # 6 = sqrt(40 - 100 * 0.2^2)
    assert spread == pytest.approx(6.0)
    assert gap.p == pytest.approx(0.000858, abs=1e-5)  # two-sided, z = 20 / 6
    assert (gap.low, gap.high) == pytest.approx((0.2 - 0.118, 0.2 + 0.118), abs=0.02)


def test_difference_is_antisymmetric_and_none_to_oneself():
    """Swapping the scorers turns the sign."""
    rng = np.random.default_rng(1)
    a, b, groups = rng.standard_normal(80), rng.standard_normal(80), np.arange(80) // 2
    forth, back = difference(a, b, groups), difference(b, a, groups)
    assert forth.value == -back.value
    assert forth.low == pytest.approx(-back.high, abs=0.02)
    assert difference(a, a, groups) == (0.0, 0.0, 0.0, 1.0)


def test_difference_pairs_the_scorers():
    """Two scorers that err on the same prompts are told apart more surely than their intervals say."""
    a = np.where(np.arange(200) < 140, 1.0, -1.0)
    b = np.where(np.arange(200) < 130, 1.0, -1.0)
    gap = difference(a, b, np.arange(200))
    first, other = pair_accuracy(a, np.arange(200)), pair_accuracy(b, np.arange(200))
    assert first.low < other.accuracy < first.high
    assert gap.low > 0


def test_fold_spread_by_hand():
    """Accuracies 1, 0.5 and 0: standard deviation 0.5."""
    right = np.array([True, True, True, False, False, False])
    assert fold_spread(right, np.array([0, 0, 1, 1, 2, 2])) == pytest.approx(0.5)
    assert np.isnan(fold_spread(right, np.zeros(6, int)))


def test_interval_of_a_mean_of_means():
    """Parts of 100 and 400 prompts, half of them right: variance (1/400 + 1/1600) / 4, so +- 0.055."""
    low, high = interval_of_means([np.arange(100) % 2 / 1.0, np.arange(400) % 2 / 1.0])
    assert low == pytest.approx(0.5 - 1.96 * 0.02795, abs=0.006)
    assert high == pytest.approx(0.5 + 1.96 * 0.02795, abs=0.006)


def test_a_mean_of_nothing_but_ones_is_not_certain():
    """Wilson's interval over all prompts: 10 of 10 is 0.722 to 1."""
    assert interval_of_means([np.ones(4), np.ones(6)]) == pytest.approx((0.7225, 1.0), abs=1e-4)
