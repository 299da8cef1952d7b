"""Where prompts, responses and pairs wait on the disk until all have come and can be laid out.

Everything is appended as it comes: of each prompt and response the token ids and a record of fixed size with
the digest of its tokens, of each pair three numbers. Memory: as `tables`.
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
    """Prompts or responses as they came: their records and their token ids.

    Args:
        scratch: for tables.
        layout: of what `add` is given besides digest and tokens, as `struct` writes it.
        more: the same, as numpy writes it.

    """

    def __init__(self, scratch: ScratchFolder, layout: str, more: list[tuple[str, str]]) -> None:
        self._struct = struct.Struct(f"<16sqi{layout}")
        self.records = scratch.table([("key", "S16"), ("offset", "<i8"), ("length", "<i4"), *more])
        self._ids = scratch.table("<u4")

    def __len__(self) -> int:
        """Return how many have come."""
        return len(self.records)

    def add(self, key: bytes, ids: bytes, *more: int) -> None:
        """Append one, given the digest of its tokens and their ids, four bytes each."""
        self.records.append(self._struct.pack(key, len(self._ids), len(ids) // 4, *more))
        self._ids.append(ids)

    def column(self, order: DiskTable, field: str) -> Iterator[Integer[np.ndarray, " block"]]:
        """Yield one field of those that are wanted; `order` is as `distinct` gives it."""
        for block in order.blocks():
            yield self.records.at(block["position"])[field]

    def token_ids(self, order: DiskTable) -> Iterator[UInt32[np.ndarray, " tokens"]]:
        """Yield the token ids of those that are wanted, many at a time."""
        for block in order.blocks():
            records = self.records.at(block["position"])
            numbers = np.arange(len(records), dtype=np.int32)
            for start, stop in pairwise(cut_units(records["length"], numbers, _TOKENS, _TOKENS)):
                size = records["length"][start:stop].astype(np.int64)
                if size.any():
                    shift = records["offset"][start:stop] - (np.cumsum(size) - size)
                    yield self._ids.at(np.repeat(shift, size) + np.arange(size.sum()))


class Spool(ScratchFolder):
    """The tables of all that came.

    Args:
        folder: made on entry, removed on exit.

    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        more = [("prompt", "<i8"), ("characters", "<i4"), ("flags", "u1")]
        self.responses = TokenSequences(self, "qiB", more)
        self.prompts = TokenSequences(self, "Q", [("group", "<u8")])
        self.pairs = self.table([("chosen", "<i8"), ("rejected", "<i8"), ("row", "<i8")])
        self.rejects = self.table("u1")


def distinct(
    scratch: ScratchFolder,
    table: DiskTable,
    keys: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | int]],
) -> tuple[DiskTable, DiskTable]:
    """Find what is equal, and put what is different in order: by what it stands under, then as it came.

    Args:
        scratch: for tables.
        table: what came.
        keys: gives for a block of it the keys, of 16 bytes, which equal ones share, and the numbers of what
            they stand under.

    Returns:
        of each different one, in that order, `tree`, which it stands under, and `place`, where it came first
        in the table; and for each place of the table the number of its equal in that order.

    """
    keyed, start = scratch.table(_KEYED), 0
    for block in table.blocks():
        key, tree = keys(block)
        keyed.add(key, np.arange(start, start + len(block)), tree)
        start += len(block)
    firsts, first = scratch.table(fields("tree", "first", "position")), np.zeros(1, np.int64)
    for block, begins in groups(keyed.sorted(), "key"):
        first = np.concatenate([first[-1:], block["position"][begins]])[np.cumsum(begins)]
        firsts.add(block["tree"], first, block["position"])
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
