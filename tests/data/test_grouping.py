"""Rows of one rated response each become one example per prompt, and every row is counted."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparserm_cli.data.grouping import pairs_of, sides_of
from sparserm_cli.data.reader import Reader
from sparserm_cli.errors import BadInputError


def reader_of(path: Path, *rows: tuple[str, str, Any], **options: Any) -> Reader:
    """Return a reader of rated rows."""
    keys = ("prompt", "response", "rating")
    path.write_text("".join(json.dumps(dict(zip(keys, row, strict=True))) + "\n" for row in rows))
    return Reader(path, purpose="pairs", **options)


def test_rows_of_a_prompt_make_its_pairs(tmp_path: Path):
    """Equal ratings make no pair; one answer alone none either; both are counted."""
    rows = [("a", "x", 1), ("a", "y", 3), ("a", "z", 1), ("b", "x", 2), ("b", "y", 2), ("c", "x", 5)]
    reader = reader_of(tmp_path / "r.jsonl", *rows)
    first, second, third = reader
    assert (first.row, first.rows, first.pairs, first.margins) == (1, 3, ((1, 0), (1, 2)), (2.0, 2.0))
    assert (second.undecided, third.undecided) == ("tie", "one answer")
    assert (reader.read, reader.accepted) == (6, 6)


def test_a_prompt_that_comes_again_is_refused(tmp_path: Path):
    """Its pairs would be missing without a word."""
    rows = [("a", "x", 1), ("b", "x", 2), ("a", "y", 3), ("b", "y", 1)]
    with pytest.raises(BadInputError, match=r"line 3 .*expected rows of one prompt next to each other"):
        list(reader_of(tmp_path / "r.jsonl", *rows))
    reader = reader_of(tmp_path / "r.jsonl", *rows, on_bad_row="reject")
    assert sum(example.rows for example in reader) == reader.accepted == 3
    assert (reader.read, reader.rejected) == (4, 1)


@given(st.lists(st.integers(0, 4).map(float), max_size=6))
def test_pairs_are_all_of_a_larger_and_a_smaller_score(scores: list[float]):
    """By trying all; the sides agree with them."""
    pairs = pairs_of(scores)
    places = range(len(scores))
    assert set(pairs) == {(good, bad) for good in places for bad in places if scores[good] > scores[bad]}
    assert len(pairs) == len(set(pairs))
    sides = sides_of(scores)
    assert all((sides[place] == 1) == (scores[place] == max(scores)) for place in places) or not pairs
