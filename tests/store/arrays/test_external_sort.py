"""Tables on the disk: whatever the size of a block, they are sorted, and give back what was appended."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparserm_cli.errors import ResourceError
from sparserm_cli.store.arrays import external_sort as tables
from sparserm_cli.store.arrays.external_sort import ScratchFolder, fields, groups

number = st.one_of(st.integers(0, 3), st.integers(0, 2**64 - 1))


@settings(max_examples=60, deadline=None)
@given(
    records=st.lists(st.tuples(number, number), min_size=1, max_size=60),
    block=st.sampled_from([1, 2, 3, 7, 100]),
)
def test_a_table_is_sorted_in_blocks_of_any_size(
    tmp_path_factory: pytest.TempPathFactory, records: list[tuple[int, int]], block: int
):
    """As `sorted` of a list does; groups begin where the first field changes, also between blocks."""
    before, tables.BLOCK = tables.BLOCK, block
    try:
        with ScratchFolder(tmp_path_factory.mktemp("scratch") / "a") as scratch:
            table = scratch.table(fields("a", "b"))
            table.add(*np.array(records, np.uint64).T)
            assert len(table) == len(records)
            assert [tuple(record) for part in table.blocks() for record in part.tolist()] == records
            assert table.at(np.array([len(records) - 1, 0])).tolist() == [records[-1], records[0]]
            parts = list(groups(table.sorted(), "a"))
    finally:
        tables.BLOCK = before
    ordered = [tuple(record) for part, _ in parts for record in part.tolist()]
    assert ordered == sorted(records)
    begins = [bool(begin) for _, mask in parts for begin in mask]
    assert begins == [i == 0 or ordered[i - 1][0] != record[0] for i, record in enumerate(ordered)]


def test_sorted_blocks_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """No block is longer than two of the given size, were the records in the worst order."""
    monkeypatch.setattr(tables, "BLOCK", 16)
    values = np.arange(500)
    for order in (
        values,
        values[::-1],
        values.reshape(20, 25).T.ravel(),
        np.random.default_rng(0).permutation(values),
    ):
        with ScratchFolder(tmp_path / "scratch") as scratch:
            table = scratch.table(fields("a"))
            table.add(order)
            sizes = [len(block) for block in table.sorted()]
            assert sum(sizes) == 500
            assert max(sizes) <= 32
            assert not table.path.exists()


def test_an_empty_table_has_no_blocks(tmp_path: Path):
    """Neither in the order of coming nor sorted."""
    with ScratchFolder(tmp_path / "scratch") as scratch:
        table = scratch.table(fields("a"))
        assert (list(table.blocks()), list(table.sorted()), len(table)) == ([], [], 0)


def test_a_full_disk_is_a_resource_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The folder is gone afterwards."""
    monkeypatch.setenv("SPARSERM_FAULT_ERROR", "table")
    with pytest.raises(ResourceError, match="no space left"), ScratchFolder(tmp_path / "scratch") as scratch:
        scratch.table(fields("a")).extend([np.zeros(1 << 18, fields("a"))])
    assert list(tmp_path.iterdir()) == []
