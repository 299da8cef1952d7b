"""How many directions of style are taken out: planted style is found; nothing is taken out without need."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparserm_cli.errors import BadInputError
from sparserm_cli.stages.fit.style_size import SizeTrial, Twins, best_size, style_basis, try_sizes

WIDTH, PROMPTS = 12, 200
STYLE = np.eye(WIDTH)[:2]
"""Two directions that style moves."""


def planted(spurious: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give responses, pairs and prompts; chosen responses are better, and `spurious` of style goes along."""
    rng = np.random.default_rng(0)
    better = rng.standard_normal((PROMPTS, 2, WIDTH)) * 0.5
    better[:, 0, 5] += 0.6
    better[:, 0, 0] += spurious
    pairs = np.arange(2 * PROMPTS).reshape(-1, 2)
    return better.reshape(-1, WIDTH).astype(np.float32), pairs, np.arange(PROMPTS, dtype=np.uint64)


def twins() -> Twins:
    """Give twins that differ by a mean of 3 along one direction and by noise along another."""
    rng = np.random.default_rng(1)
    amounts = np.stack([3 + rng.standard_normal(60) * 0.1, rng.standard_normal(60)], axis=1)
    return Twins({4: (amounts @ STYLE).astype(np.float32)}, np.arange(60, dtype=np.uint64))


def test_planted_style_is_taken_out():
    """A probe that relies on style fails on restyled pairs; without its direction it does not."""
    vectors, pairs, groups = planted(spurious=1.0)
    tried = try_sizes({4: vectors}, pairs, groups, twins(), 0)
    assert tried[0].rejected_styled < 0.3 < 0.7 < tried[0].clean
    size = best_size(tried | {0: tried[0]._replace(clean=0.7)})
    assert size in (1, 2)
    assert min(tried[size]) > 0.7


def test_nothing_is_taken_out_where_it_would_cost_more_than_the_tolerance():
    """Where style itself is preferred, the pairs as they are decide."""
    tried = {0: SizeTrial(0.80, 0.5, 0.9), 1: SizeTrial(0.79, 0.78, 0.78), 2: SizeTrial(0.796, 0.7, 0.7)}
    assert best_size(tried) == 2
    assert best_size({size: tried[size] for size in (0, 1)}) == 0


def test_the_best_worst_case_wins_and_of_equal_ones_the_smallest():
    """A larger number must gain something."""
    tried = {0: SizeTrial(0.8, 0.5, 0.9), 4: SizeTrial(0.8, 0.78, 0.8), 8: SizeTrial(0.8, 0.78, 0.9)}
    assert best_size(tried) == 4
    assert best_size(tried | {8: SizeTrial(0.8, 0.781, 0.8)}) == 8


@given(st.integers(0, 6), st.integers(7, 20), st.integers(0, 1000))
def test_a_basis_is_orthonormal_and_nested(size, rows, seed):
    """The first direction is the mean difference; a larger basis begins with a smaller one."""
    differences = np.random.default_rng(seed).standard_normal((rows, WIDTH)) + 1
    basis, larger = style_basis(differences, size), style_basis(differences, size + 1)
    np.testing.assert_allclose(basis @ basis.T, np.eye(size), atol=1e-5)
    np.testing.assert_allclose(np.abs(np.sum(basis * larger[:size], axis=1)), np.ones(size), atol=1e-5)
    mean = differences.mean(axis=0) / np.linalg.norm(differences.mean(axis=0))
    assert abs(larger[0] @ mean) == pytest.approx(1, abs=1e-5)


def test_too_few_prompts_of_twins_are_refused():
    """Folds need at least five."""
    vectors, pairs, groups = planted(spurious=0.0)
    few = Twins({4: np.ones((4, WIDTH), np.float32)}, np.arange(4, dtype=np.uint64))
    with pytest.raises(BadInputError, match=r"^grouped folds: expected at least 5 prompts, found 4; "):
        try_sizes({4: vectors}, pairs, groups, few, 0)
