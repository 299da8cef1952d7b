"""Groups of vectors by their cosines, on vectors whose groups are plain."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparserm_cli.statistics.cosine_clusters import cosine_clusters, mean_cosine

ROWS = np.array([[1, 0, 0], [0, 2, 0.1], [5, 0.1, 0], [0, 1, 0], [-1, 0, 0]], np.float32)
"""Along x, along y, along x, along y, and against x."""


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, [0, 0, 0, 0, 0]), (3, [0, 1, 0, 1, 2]), (5, [0, 1, 2, 3, 4]), (9, [0, 1, 2, 3, 4])],
)
def test_vectors_of_one_direction_form_a_group(count: int, expected: list[int]) -> None:
    """Lengths do not matter, an opposite vector is far, and groups are numbered as they first appear."""
    assert cosine_clusters(ROWS, count).tolist() == expected


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 99))
def test_there_are_as_many_groups_as_wanted(vectors: int, count: int, seed: int) -> None:
    """Every vector has a group, and the numbers begin at 0 without gaps."""
    rows = np.random.default_rng(seed).normal(size=(vectors, 8)).astype(np.float32)
    assert sorted(set(cosine_clusters(rows, count).tolist())) == list(range(min(vectors, count)))


def test_ties_do_not_lessen_the_groups() -> None:
    """Eight axes are all at one distance from each other."""
    assert len(set(cosine_clusters(np.eye(8, dtype=np.float32), 3).tolist())) == 3


def test_mean_cosine_by_hand() -> None:
    """Of x, x and y: cosines 1, 0 and 0."""
    rows = np.array([[1, 0], [3, 0], [0, 2]], np.float32)
    assert mean_cosine(rows) == pytest.approx(1 / 3)
    assert mean_cosine(rows[:1]) == 1.0
