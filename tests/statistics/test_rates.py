"""The statistics of latents, against numbers worked out by hand and against scipy."""

import numpy as np
import pytest
import scipy.stats

from sparserm_cli.stages.frequency import latent_statistics
from sparserm_cli.stages.frequency.counted_responses import FOLDS, class_responses
from sparserm_cli.stages.frequency.firing_counts import FiringCounter
from sparserm_cli.statistics import rates as m


def test_wilson_interval_by_hand():
    """8 of 10: Wilson's 95 % interval is 0.4902 to 0.9433 (Newcombe 1998, table I gives such values)."""
    low, high = m.wilson_interval(np.array([0.8]), np.array([10.0]))
    assert low[0] == pytest.approx(0.490162, abs=1e-6)
    assert high[0] == pytest.approx(0.943318, abs=1e-6)


def test_wilson_interval_at_the_ends_and_without_data():
    """0 of 5 begins at 0, 5 of 5 ends at 1, and nothing seen says nothing."""
    low, high = m.wilson_interval(np.array([0.0, 1.0, 0.0]), np.array([5.0, 5.0, 0.0]))
    assert low[0] == 0.0
    assert high[0] == pytest.approx(0.434482, abs=1e-6)
    assert low[1] == pytest.approx(1 - 0.434482, abs=1e-6)
    assert high[1] == 1.0
    assert (low[2], high[2]) == (0.0, 1.0)


def test_wilson_interval_is_scipys():
    """The same numbers as scipy's binomial test gives."""
    expected = scipy.stats.binomtest(13, 41).proportion_ci(0.9, method="wilson")
    low, high = m.wilson_interval(np.array([13 / 41]), np.array([41.0]), 0.9)
    assert (low[0], high[0]) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_two_proportion_z_by_hand():
    """30 of 100 against 18 of 100: pooled 0.24, z = 0.12 / sqrt(0.24 * 0.76 * 0.02) = 1.98680."""
    z = m.two_proportion_z(np.array([[30], [18]]), np.array([100, 100]))
    assert z[0] == pytest.approx(0.12 / np.sqrt(0.24 * 0.76 * 0.02))
    assert z[0] == pytest.approx(1.98680, abs=1e-5)


def test_two_proportion_z_of_a_dead_latent_is_0():
    """A latent that never fires, or always does, says nothing."""
    assert m.two_proportion_z(np.array([[0, 5], [0, 7]]), np.array([5, 7])).tolist() == [0.0, 0.0]


def test_mcnemar_by_hand():
    """15 pairs for chosen, 5 for rejected: (15 - 5) / sqrt(20) = 2.23607."""
    assert m.mcnemar_z(np.array([[15.0, 0.0], [5.0, 0.0]])).tolist() == pytest.approx([2.2360680, 0.0])


def test_q_values_by_hand():
    """The example of Benjamini and Hochberg's procedure with four tests."""
    q = m.q_values(np.array([0.04, 0.001, 0.03, 0.5]))
    assert q == pytest.approx([0.04 * 4 / 3, 0.004, 0.04 * 4 / 3, 0.5])


def test_q_values_are_scipys():
    """The same as scipy.stats.false_discovery_control."""
    p = np.random.default_rng(0).random(200) ** 3
    assert m.q_values(p) == pytest.approx(scipy.stats.false_discovery_control(p))


def test_mutual_information_by_hand():
    """A latent that tells the side tells 1 bit; one that fires alike on both tells none."""
    fired, n = np.array([[8, 4, 0], [0, 4, 0]]), np.array([8, 8])
    assert m.mutual_information(fired, n) == pytest.approx([1.0, 0.0, 0.0], abs=1e-12)


def test_mutual_information_is_scipys_entropy():
    """H(side) - H(side | fires), from scipy's entropy."""
    fired, n = np.array([[6], [1]]), np.array([10, 9])
    entropy = lambda *counts: scipy.stats.entropy(counts, base=2)  # noqa: E731
    expected = entropy(10, 9) - 7 / 19 * entropy(6, 1) - 12 / 19 * entropy(4, 8)
    assert m.mutual_information(fired, n)[0] == pytest.approx(expected)


def test_standardised_difference_by_hand():
    """(0.5 - 0.2) / sqrt((0.25 + 0.16) / 2)."""
    assert m.standardised_difference(np.array([[0.5], [0.2]]))[0] == pytest.approx(0.3 / np.sqrt(0.205))
    assert m.standardised_difference(np.array([[1.0], [0.0]]))[0] == 0.0


def test_length_controlled_difference_sees_through_length():
    """A latent that fires on long responses only, which are mostly chosen, has no difference left."""
    part = np.array([[[0.0], [0.0]], [[30.0], [10.0]]])  # short, long; chosen, rejected
    whole = np.array([[10.0, 30.0], [30.0, 10.0]])
    assert m.stratified_difference(part, whole)[0] == 0.0
    pooled = part.sum(axis=0)[:, 0] / whole.sum(axis=0)
    assert pooled[0] - pooled[1] == pytest.approx(0.5)


def test_length_controlled_difference_by_hand():
    """Weights 10*30/40 = 7.5 and 20*20/40 = 10; differences 0.2 and 0.1: (1.5 + 1) / 17.5."""
    part = np.array([[[5.0], [9.0]], [[6.0], [4.0]]])
    whole = np.array([[10.0, 30.0], [20.0, 20.0]])
    assert m.stratified_difference(part, whole)[0] == pytest.approx(2.5 / 17.5)


def test_measure_finds_the_planted_latents():
    """Latent 0 fires on 60 % of chosen tokens and 20 % of rejected ones, latent 1 the other way, 2 alike."""
    rng = np.random.default_rng(3)
    n, length = 800, 10
    rates = np.array([[0.6, 0.2, 0.4], [0.2, 0.6, 0.4]])
    fires = rng.random((n, length, 3)) < rates[np.arange(n) % 2][:, None]
    lengths = np.full(n, length)
    pairs = np.stack([np.arange(0, n, 2), np.arange(1, n, 2)], axis=1)
    groups = np.arange(n) // 2
    counted, counter = (
        class_responses(lengths, groups, groups % FOLDS, pairs),
        FiringCounter(3, "token", length),
    )
    response, _, latent = np.nonzero(fires)
    counter.add(counted, np.searchsorted(response, np.arange(n + 1)), latent.astype(np.uint16))
    measures = latent_statistics.statistics_of(counter.result())
    assert measures.difference == pytest.approx([0.4, -0.4, 0.0], abs=0.03)
    assert measures.length_controlled == pytest.approx(measures.difference, abs=0.01)
    assert (measures.low <= measures.rate).all()
    assert (measures.rate <= measures.high).all()
    assert measures.mcnemar_q[0] < 1e-6
    assert measures.z[0] > 5
    assert measures.z[1] < -5
    assert measures.mcnemar_q[2] > 0.01
    assert measures.fold_rate.shape == (2, 3, FOLDS)
    assert measures.fold_rate.mean(axis=2) == pytest.approx(measures.rate, abs=1e-3)
