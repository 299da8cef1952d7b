"""Distances from the training responses: checked by hand, and out of sample where it counts."""

import numpy as np
import pytest

from sparserm_cli.models.head.out_of_distribution import BORDER, distances, training_distances, whitening_of

CROSS = np.array([[2, 1], [2, -1], [-2, 1], [-2, -1]] * 500, np.float32)
"""Two uncorrelated columns with standard deviations 2 and 1."""


def test_whitening_by_hand():
    """One standard deviation in one of two directions: the root of the mean of 1 and 0."""
    measured = distances(np.array([[2, 0], [0, 1], [4, 2], [0, 0]], np.float32), whitening_of(CROSS))
    np.testing.assert_allclose(measured, [0.5**0.5, 0.5**0.5, 2, 0], rtol=5e-3)


def test_correlation_counts():
    """Across a correlation the same length is further than along it."""
    rng = np.random.default_rng(0)
    first = rng.standard_normal(4000)
    x = np.stack([first, first + 0.1 * rng.standard_normal(4000)], axis=1).astype(np.float32)
    along, across = distances(np.array([[1, 1], [1, -1]], np.float32), whitening_of(x))
    assert across > 10 * along


def test_without_a_whitening_it_is_the_root_mean_square():
    """What format 1 of the reward model recorded."""
    np.testing.assert_allclose(distances(np.array([[3, 4], [0, 0]], np.float32), None), [12.5**0.5, 0])


def test_a_constant_projection_does_no_harm():
    """A direction that never varies has no variance to divide by."""
    x = np.concatenate([CROSS, np.zeros((len(CROSS), 1), np.float32)], axis=1)
    assert np.isfinite(distances(x, whitening_of(x))).all()


def test_border_is_that_of_new_responses():
    """With few responses for many projections, training ones look near; the quantiles do not fall for it."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((120, 60)).astype(np.float32) * np.linspace(0.1, 3, 60, dtype=np.float32)
    groups = np.arange(120, dtype=np.uint64) // 2
    whitening, quantiles = training_distances(x, groups, 0)
    fresh = rng.standard_normal((4000, 60)).astype(np.float32) * np.linspace(0.1, 3, 60, dtype=np.float32)
    new, own = distances(fresh, whitening), distances(x, whitening)
    assert np.quantile(new, 0.5) == pytest.approx(quantiles["0.5"], rel=0.1)
    assert np.quantile(own, 0.5) < 0.9 * quantiles["0.5"]
    assert (new > quantiles[BORDER]).mean() < 0.05


def test_one_prompt_is_enough():
    """Without folds the responses are measured by themselves."""
    _, quantiles = training_distances(CROSS, np.zeros(len(CROSS), np.uint64), 0)
    assert quantiles[BORDER] == pytest.approx(1, rel=5e-3)


def test_many_responses_are_sampled():
    """More than 20,000 responses cost no more than these."""
    x = np.tile(CROSS, (11, 1))
    _, quantiles = training_distances(x, np.arange(len(x), dtype=np.uint64), 0)
    assert quantiles[BORDER] == pytest.approx(1, rel=2e-2)
