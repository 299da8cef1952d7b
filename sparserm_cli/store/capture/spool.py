"""Temporary tables on the disk that collect prompts, responses and pairs until the plan can be written.

Records are appended as they arrive: the token ids of each prompt and response with a fixed-size record that
holds their digest, and four numbers per pair. Memory: a few blocks of rows, as in `external_sort`.
"""

import struct
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Integer, UInt32

from sparserm_cli.store.arrays.external_sort import DiskTable, ScratchFolder, fields, groups
from sparserm_cli.store.capture.layout import cut_units

_KEYED = np.dtype([("key", "S16"), ("position", ">u8"), ("tree", ">u8")])
_TOKENS = 1 << 20


class TokenSequences:
    """Prompts or responses in order of arrival: their records and their token ids.

    Args:
        scratch: folder for the tables.
        layout: `struct` format of the further fields that `add` is given after digest and tokens.
        more: the same fields as a numpy record type.

    """

    def __init__(self, scratch: ScratchFolder, layout: str, more: list[tuple[str, str]]) -> None:
        self._struct = struct.Struct(f"<16sqi{layout}")
        self.records = scratch.table([("key", "S16"), ("offset", "<i8"), ("length", "<i4"), *more])
        self._ids = scratch.table("<u4")

    def __len__(self) -> int:
        """Return the number of token sequences."""
        return len(self.records)

    def add(self, key: bytes, ids: bytes, *more: int) -> None:
        """Append a sequence, given the digest of its token ids and the ids, four bytes each."""
        self.records.append(self._struct.pack(key, len(self._ids), len(ids) // 4, *more))
        self._ids.append(ids)

    def column(self, order: DiskTable, field: str) -> Iterator[Integer[np.ndarray, " block"]]:
        """Yield one field of the sequences in `order`, which `distinct` returns."""
        for block in order.blocks():
            yield self.records.at(block["position"])[field]

    def token_ids(self, order: DiskTable) -> Iterator[UInt32[np.ndarray, " tokens"]]:
        """Yield the token ids of the sequences in `order`, in blocks of many sequences."""
        for block in order.blocks():
            records = self.records.at(block["position"])
            numbers = np.arange(len(records), dtype=np.int32)
            for start, stop in pairwise(cut_units(records["length"], numbers, _TOKENS, _TOKENS)):
                size = records["length"][start:stop].astype(np.int64)
                if size.any():
                    shift = records["offset"][start:stop] - (np.cumsum(size) - size)
                    yield self._ids.at(np.repeat(shift, size) + np.arange(size.sum()))


class Spool(ScratchFolder):
    """The tables of all collected prompts, responses, pairs and rejected rows.

    Args:
        folder: folder that is created on entry and removed on exit.

    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        more = [("prompt", "<i8"), ("characters", "<i4"), ("flags", "u1")]
        self.responses = TokenSequences(self, "qiB", more)
        self.prompts = TokenSequences(self, "Q", [("group", "<u8")])
        self.pairs = self.table([("chosen", "<i8"), ("rejected", "<i8"), ("row", "<i8"), ("margin", "<f8")])
        self.rejects = self.table("u1")


def distinct(
    scratch: ScratchFolder,
    table: DiskTable,
    keys: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | int]],
) -> tuple[DiskTable, DiskTable]:
    """Deduplicate records by key and number the distinct ones by parent, then by first occurrence.

    Args:
        scratch: folder for the tables.
        table: the records.
        keys: returns for a block of records their keys of 16 bytes, which equal records share, and the
            numbers of their parents.

    Returns:
        a table with `tree`, the parent, and `position`, the first occurrence, of each distinct record in that
        order; and a table with the number of the distinct record for each record.

    """
    # Pair every record with its key, its position and its parent.
    keyed, start = scratch.table(_KEYED), 0
    for block in table.blocks():
        key, tree = keys(block)
        keyed.add(key, np.arange(start, start + len(block)), tree)
        start += len(block)
    # Sorted by key, equal records are adjacent; each gets the position of the first of them.
    firsts, first = scratch.table(fields("tree", "first", "position")), np.zeros(1, np.int64)
    for block, begins in groups(keyed.sorted(), "key"):
        first = np.concatenate([first[-1:], block["position"][begins]])[np.cumsum(begins)]
        firsts.add(block["tree"], first, block["position"])
    # Sorted by parent and first occurrence, the distinct records get their final numbers.
    order, numbered, last = (
        scratch.table(fields("tree", "position")),
        scratch.table(fields("position", "number")),
        -1,
    )
    for block, begins in groups(firsts.sorted(), "first"):
        number = last + np.cumsum(begins)
        order.add(block["tree"][begins], block["position"][begins])
        numbered.add(block["position"], number)
        last = number[-1]
    return order, scratch.table("<i8").extend(block["number"] for block in numbered.sorted())
