"""Grouped folds, validation masks and overlap: groups stay whole, results do not move."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparserm_cli.data.splits import group_key, grouped_folds, overlap, validation_mask
from sparserm_cli.errors import BadInputError

group_lists = st.lists(st.integers(0, 30) | st.integers(0, 2**64 - 1), min_size=1, max_size=200)


def array(groups: list[int]) -> np.ndarray:
    """Return group keys as the functions take them."""
    return np.array(groups, dtype=np.uint64)


def test_group_key_is_the_published_xxh3():
    """Fixed for ever, since stores keep it: the hash of no bytes is known, others must not change."""
    assert group_key("") == 0x2D06800538D394C2
    assert group_key("What is the capital of France?") == group_key("What is the capital of France?")
    assert group_key("a") != group_key("a ")


@settings(deadline=None)
@given(group_lists, st.integers(2, 5), st.integers(0, 2**63))
def test_folds_keep_groups_whole_and_use_every_fold(groups: list[int], folds: int, seed: int):
    """For any groups: one fold a group, all folds used, sizes within the largest group of each other."""
    keys = array(groups)
    distinct, counts = np.unique(keys, return_counts=True)
    if len(distinct) < folds:
        with pytest.raises(BadInputError):
            grouped_folds(keys, folds, seed)
        return
    assigned = grouped_folds(keys, folds, seed)
    assert all(len(set(assigned[keys == key].tolist())) == 1 for key in distinct)
    sizes = np.bincount(assigned, minlength=folds)
    assert sizes.min() > 0
    assert sizes.max() - sizes.min() <= counts.max()


def test_folds_do_not_depend_on_the_order_of_elements_but_on_the_seed():
    """Shuffled rows get the same folds; another seed gives others."""
    keys = array([group_key(str(i // 3)) for i in range(300)])
    order = np.random.default_rng(0).permutation(300)
    assigned = grouped_folds(keys, 5, 7)
    assert (grouped_folds(keys[order], 5, 7) == assigned[order]).all()
    assert np.bincount(assigned).tolist() == [60] * 5
    assert (grouped_folds(keys, 5, 8) != assigned).mean() > 0.5


def test_folds_balance_groups_of_unequal_size():
    """Sizes 5, 4, 3, 3, 2, 1 go as 5 + 1, 4 + 2 and 3 + 3 whatever the seed."""
    keys = array([0] * 5 + [1] * 4 + [2] * 3 + [3] * 3 + [4] * 2 + [5])
    for seed in range(10):
        assert sorted(np.bincount(grouped_folds(keys, 3, seed)).tolist()) == [6, 6, 6]


def test_too_few_groups_for_the_folds():
    """The error counts the prompts there are."""
    with pytest.raises(BadInputError) as caught:
        grouped_folds(array([1, 1, 2]), 3, 0)
    assert str(caught.value) == (
        "grouped folds: expected at least 3 prompts, found 2; use fewer folds or more data"
    )


@settings(deadline=None)
@given(group_lists, st.floats(0, 1), st.integers(0, 2**63))
def test_validation_is_by_group_and_independent_of_other_rows(groups: list[int], fraction: float, seed: int):
    """Each element's choice is what it would be alone."""
    keys = array(groups)
    mask = validation_mask(keys, fraction, seed)
    alone = [bool(validation_mask(array([key]), fraction, seed)[0]) for key in groups]
    assert mask.tolist() == alone


def test_validation_takes_about_the_fraction_of_groups():
    """Of 10,000 groups a tenth, within four standard deviations; none at 0, all at 1; nested as it grows."""
    keys = array([group_key(str(i)) for i in range(10_000)])
    small, large = validation_mask(keys, 0.1, 3), validation_mask(keys, 0.2, 3)
    assert abs(small.sum() - 1000) < 120
    assert not (small & ~large).any()
    assert not validation_mask(keys, 0.0, 3).any()
    assert validation_mask(keys, 1.0, 3).all()
    # Consecutive small numbers as groups and seeds are mixed as well.
    assert abs(validation_mask(np.arange(10_000, dtype=np.uint64), 0.1, 0).sum() - 1000) < 120
    both = validation_mask(keys, 0.1, 4) & small
    assert abs(both.sum() - 100) < 45


def test_row_22_overlap_counts_shared_prompts():
    """Each prompt once, however often it stands in either set."""
    train = array([group_key(text) for text in ("a", "b", "b", "c")])
    test = array([group_key(text) for text in ("b", "b", "d", "c", "c")])
    assert (overlap(train, test), overlap(train, array([5])), overlap(array([]), test)) == (2, 0, 0)
