"""Baselines without an SAE: by hand, and partial least squares against scikit-learn's."""

import numpy as np
import pytest
from sklearn.cross_decomposition import PLSRegression

from sparserm_cli.analysis.compare.method_sets import CONTROLS
from sparserm_cli.analysis.compare.methods import KINDS
from sparserm_cli.models.head.baselines import (
    BASELINES,
    LabelledVectors,
    difference_of_means,
    length_preference,
)


def labelled(pairs: int = 60, d_in: int = 8, seed: int = 0) -> LabelledVectors:
    """Make pairs whose chosen response has more of number 0, in numbers of very different size."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((2 * pairs, d_in)) @ rng.standard_normal((d_in, d_in))
    vectors[0::2, 0] += 1.0
    scale = 10.0 ** np.linspace(-1, 2, d_in)
    return LabelledVectors((vectors * scale).astype(np.float32), np.arange(2 * pairs).reshape(-1, 2))


def span(rows: np.ndarray) -> np.ndarray:
    """Return the projector on the space that rows span."""
    q, _ = np.linalg.qr(rows.T.astype(np.float64))
    return q @ q.T


@pytest.mark.parametrize("count", [1, 3, 5])
def test_partial_least_squares_is_that_of_scikit_learn(count: int):
    """The directions span the space of scikit-learn's weights on both orders of each standardised pair."""
    given = labelled()
    scale = given.vectors.std(axis=0, dtype=np.float64)
    difference = (given.vectors[given.pairs[:, 0]] - given.vectors[given.pairs[:, 1]]) / scale
    both, label = np.concatenate([difference, -difference]), np.repeat([1.0, -1.0], len(difference))
    expected = PLSRegression(count, scale=False, tol=1e-12).fit(both, label).x_weights_.T
    directions = BASELINES["partial least squares"].draw(given, count, 0)
    assert directions.shape == (count, 8)
    assert span(directions * scale) == pytest.approx(span(expected), abs=1e-4)


def test_partial_least_squares_stops_where_nothing_is_left():
    """Pairs that differ in one direction only give one direction."""
    vectors = np.zeros((8, 3), np.float32)
    vectors[0::2] = [1.0, 2.0, 0.5]
    vectors[1::2] = [0.0, 0.0, 0.0]
    directions = BASELINES["partial least squares"].draw(
        LabelledVectors(vectors, np.arange(8).reshape(-1, 2)), 3, 0
    )
    assert directions.shape == (1, 3)


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_is_repeatable_and_gives_no_more_than_asked(name: str):
    """The seed fixes what is random."""
    given = labelled()
    first, again = (BASELINES[name].draw(given, 4, 7) for _ in range(2))
    assert first.shape == (4, 8)
    assert first.dtype == np.float32
    assert np.array_equal(first, again)


def test_components_by_hand():
    """Responses spread along (1, 1) and pairs that differ along (1, -1)."""
    vectors = np.array([[5, 4], [4, 5], [-4, -5], [-5, -4]], np.float32)
    given = LabelledVectors(vectors, np.array([[0, 1], [2, 3]]))
    assert abs(BASELINES["components of responses"].draw(given, 1, 0)) == pytest.approx(
        np.full((1, 2), 0.5**0.5)
    )
    (component,) = BASELINES["components of pairs"].draw(given, 1, 0)
    assert component[0] == pytest.approx(-component[1])


def test_difference_of_means_and_length_by_hand():
    """Two pairs: mean chosen less mean rejected; the chosen one is longer once and shorter never."""
    vectors = np.array([[1, 0], [0, 0], [3, 2], [1, 0]], np.float32)
    pairs = np.array([[0, 1], [2, 3]])
    assert difference_of_means(vectors, pairs).tolist() == [1.5, 1.0]
    assert length_preference(np.array([5, 4, 7, 7]), pairs) == 1
    assert length_preference(np.array([4, 5, 7, 7]), pairs) == -1
    assert length_preference(np.array([4, 5, 7, 6]), pairs) == 0
    counts = np.array([0.5, 1.5], np.float32)  # a quarter of (1, 0) and three quarters of (2, 2)
    assert difference_of_means(vectors, pairs, counts).tolist() == [1.75, 1.5]
    assert length_preference(np.array([4, 5, 7, 6]), pairs, counts) == 1


def test_the_comparison_tries_every_baseline_of_the_table():
    """An entry is all that one more baseline takes: `compare` makes its methods from the table."""
    assert {baseline.kind for baseline in BASELINES.values()} <= KINDS.keys()
    assert {name: baseline.kind for name, baseline in BASELINES.items()}.items() <= CONTROLS.items()
