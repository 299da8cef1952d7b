"""The token trie: what it holds, who sees whom, and how it is filled up."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sparserm_cli.models.lm.trie import Row, Trie, build_trie, lengthen, sort_rows, visible


def row(ids: list[int], keep: int, number: int = 0) -> Row:
    return Row(number, 0, np.array(ids, np.uint32), keep)


def trie_of(*sequences: tuple[list[int], int]) -> tuple[list[Row], Trie]:
    rows, shared = sort_rows([row(ids, keep, number) for number, (ids, keep) in enumerate(sequences)])
    return rows, build_trie(rows, shared)


def test_a_shared_prompt_stands_once() -> None:
    """Two responses to one prompt: hand-made expectation of every field."""
    rows, trie = trie_of(([7, 8, 9], 1), ([7, 8, 1, 2], 2))
    assert [row.tree for row in rows] == [1, 0]
    assert trie.ids.tolist() == [7, 8, 1, 2, 9]
    assert trie.positions.tolist() == [0, 1, 2, 3, 2]
    assert trie.ends.tolist() == [5, 5, 4, 4, 5]
    assert trie.kept.tolist() == [2, 3, 4]
    assert [places.tolist() for places in trie.rows] == [[0, 1], [2]]


def test_a_sequence_that_begins_another_adds_nothing() -> None:
    """A response that is the beginning of a longer one shares all its tokens with it."""
    rows, trie = trie_of(([7, 8], 1), ([7, 8, 9], 2))
    assert trie.ids.tolist() == [7, 8, 9]
    assert [(row.tree, places.tolist()) for row, places in zip(rows, trie.rows, strict=True)] == [
        (0, [0]),
        (1, [0, 1]),
    ]


def test_token_ids_sort_as_numbers() -> None:
    """Ids of several bytes are compared as numbers, so that 256 comes after 1 and neighbours share most."""
    rows, _ = sort_rows([row([256], 1, 0), row([1], 1, 1), row([65536], 1, 2)])
    assert [row.tree for row in rows] == [1, 0, 2]


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
    for row, places in zip(rows, trie.rows, strict=True):
        last = trie.kept[places[-1]]
        path = np.flatnonzero(seen[last])
        assert trie.ids[path].tolist() == row.ids.tolist()
        assert trie.positions[path].tolist() == list(range(len(row.ids)))
        assert trie.kept[places].tolist() == path[-row.keep :].tolist()
    beginnings = {tuple(ids[:length]) for ids, _ in sequences for length in range(1, len(ids) + 1)}
    assert len(trie.ids) == len(beginnings)


def test_what_fills_a_trie_up_is_seen_by_nobody() -> None:
    """Three more tokens: sequences of their own, unwanted, and everything else as it was."""
    _, trie = trie_of(([7, 8, 9], 1), ([7, 8, 1, 2], 2))
    longer = lengthen(trie, 3)
    assert longer.ids.tolist() == [7, 8, 1, 2, 9, 7, 8, 1]
    assert longer.positions.tolist() == [0, 1, 2, 3, 2, 0, 0, 0]
    assert longer[3:] == trie[3:]
    everything, fresh = np.arange(8), np.arange(5)
    seen = visible(longer, everything, everything, None)
    assert np.array_equal(seen[:5, :5], visible(trie, fresh, fresh, None))
    assert not seen[:5, 5:].any()
    assert np.array_equal(seen[5:], np.eye(8, dtype=np.bool_)[5:])
