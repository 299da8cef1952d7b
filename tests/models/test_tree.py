"""The token trie: what it holds, who sees whom, and where it is cut for attention."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sparserm_cli.models.tree import Row, Trie, build_trie, cut_blocks, sort_rows, visible


def row(ids: list[int], keep: int, number: int = 0) -> Row:
    return Row(number, 0, np.array(ids, np.uint32), keep)


def trie_of(*sequences: tuple[list[int], int]) -> tuple[list[Row], Trie]:
    rows, shared = sort_rows([row(ids, keep, number) for number, (ids, keep) in enumerate(sequences)])
    return rows, build_trie(rows, shared)


def test_a_shared_prompt_stands_once() -> None:
    """Two responses to one prompt: hand-made expectation of every field."""
    rows, trie = trie_of(([7, 8, 9], 1), ([7, 8, 1, 2], 2))
    assert [one.tree for one in rows] == [1, 0]
    assert trie.ids.tolist() == [7, 8, 1, 2, 9]
    assert trie.positions.tolist() == [0, 1, 2, 3, 2]
    assert trie.ends.tolist() == [5, 5, 4, 4, 5]
    assert trie.kept.tolist() == [2, 3, 4]
    assert [places.tolist() for places in trie.rows] == [[0, 1], [2]]


def test_a_sequence_that_begins_another_adds_nothing() -> None:
    """A response that is the beginning of a longer one shares all its tokens with it."""
    rows, trie = trie_of(([7, 8], 1), ([7, 8, 9], 2))
    assert trie.ids.tolist() == [7, 8, 9]
    assert [(one.tree, places.tolist()) for one, places in zip(rows, trie.rows, strict=True)] == [
        (0, [0]),
        (1, [0, 1]),
    ]


def test_token_ids_sort_as_numbers() -> None:
    """Ids of several bytes are compared as numbers, so that 256 comes after 1 and neighbours share most."""
    rows, _ = sort_rows([row([256], 1, 0), row([1], 1, 1), row([65536], 1, 2)])
    assert [one.tree for one in rows] == [1, 0, 2]


def test_no_rows_give_no_order() -> None:
    """An empty unit sorts to nothing."""
    rows, shared = sort_rows([])
    assert rows == []
    assert shared.tolist() == []


def test_a_window_hides_what_lies_too_far_back() -> None:
    """With a window of 2, a token sees itself and its parent; positions count along the sequence."""
    _, trie = trie_of(([7, 8, 1, 2], 2), ([7, 8, 9], 1))
    everything = np.arange(5)
    seen = visible(trie, everything, everything, 2)
    assert [np.flatnonzero(line).tolist() for line in seen] == [[0], [0, 1], [1, 2], [2, 3], [1, 4]]


SEQUENCES = st.lists(
    st.lists(st.integers(0, 2), min_size=1, max_size=9).flatmap(
        lambda ids: st.tuples(st.just(ids), st.integers(1, len(ids)))
    ),
    min_size=1,
    max_size=12,
)


@given(SEQUENCES)
def test_a_trie_holds_every_sequence(sequences: list[tuple[list[int], int]]) -> None:
    """Kept places lead back to the response, and a token sees exactly its own sequence up to itself."""
    rows, trie = trie_of(*sequences)
    everything = np.arange(len(trie.ids))
    seen = visible(trie, everything, everything, None)
    for one, places in zip(rows, trie.rows, strict=True):
        last = trie.kept[places[-1]]
        path = np.flatnonzero(seen[last])
        assert trie.ids[path].tolist() == one.ids.tolist()
        assert trie.positions[path].tolist() == list(range(len(one.ids)))
        assert trie.kept[places].tolist() == path[-one.keep :].tolist()
    beginnings = {tuple(ids[:length]) for ids, _ in sequences for length in range(1, len(ids) + 1)}
    assert len(trie.ids) == len(beginnings)


@given(SEQUENCES, st.integers(1, 6), st.integers(0, 40))
def test_cuts_cover_the_tokens(sequences: list[tuple[list[int], int]], longest: int, call: int) -> None:
    """Blocks follow one another from first to last; one is too long only if it cannot be cut."""
    _, trie = trie_of(*sequences)
    cuts = cut_blocks(trie, longest, call)
    assert cuts[0] == 0
    assert cuts[-1] == len(trie.ids)
    assert all(low < high for low, high in pairwise(cuts))
    for low, high in pairwise(cuts):
        assert high - low <= longest or (np.diff(trie.positions[low:high]) == 1).all()


def test_cuts_fall_between_unrelated_sequences() -> None:
    """Two unrelated sequences are cut apart: 2 x (32 x 32 + 300) products are fewer than 64 x 64 + 300."""
    _, trie = trie_of(([1] * 32, 1), ([2] * 32, 1))
    assert cut_blocks(trie, 128, 300) == [0, 32, 64]
    assert cut_blocks(trie, 128, 100_000) == [0, 64]
