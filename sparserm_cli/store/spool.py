"""Where prompts, responses and pairs wait on the disk until all have come and can be laid out.

Everything is appended as it comes: of each prompt and response the token ids and a record of fixed size with
the digest of its tokens, of each pair three numbers. Memory: none that grows.
"""

import shutil
import struct
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from jaxtyping import Integer, UInt32, UInt64

from sparserm_cli.store.files import disk_errors, fault_point, make_folder
from sparserm_cli.store.layout import cut_units

RECORDS = {
    "responses": np.dtype(
        [("key", "<u8", 2), ("prompt", "<i4"), ("length", "<i4"), ("characters", "<i4"), ("flags", "u1")]
    ),
    "prompts": np.dtype([("key", "<u8", 2), ("length", "<i4"), ("group", "<u8")]),
    "pairs": np.dtype([("chosen", "<i8"), ("rejected", "<i8"), ("row", "<i8")]),
}
RESPONSE, PROMPT, PAIR = struct.Struct("<16siiiB"), struct.Struct("<16siQ"), struct.Struct("<qqq")
"""The same records, to be packed one at a time."""

_FILES = (*RECORDS, "responses.ids", "prompts.ids", "rejects")
_BLOCK = 1 << 20


class Spool:
    """Files that are appended to, then read.

    Args:
        folder: made on entry, removed on exit.

    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._waiting = {name: bytearray() for name in _FILES}

    def __enter__(self) -> Self:
        """Make the folder."""
        make_folder(self.folder)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove everything."""
        self.remove()

    def remove(self) -> None:
        """Remove the files, which nobody needs any more."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def append(self, name: str, data: bytes) -> None:
        """Append to a file; it is written a mebibyte at a time.

        Raises:
            ResourceError: the disk is full.

        """
        waiting = self._waiting[name]
        waiting += data
        if len(waiting) >= _BLOCK:
            self._write(name)

    def finish(self) -> None:
        """Write what still waits; from here on the files are read.

        Raises:
            ResourceError: the disk is full.

        """
        for name in _FILES:
            self._write(name)

    def _write(self, name: str) -> None:
        """Append what waits for a file to it."""
        waiting = self._waiting[name]
        with disk_errors(self.folder, len(waiting)):
            fault_point("plan-spool")
            with (self.folder / name).open("ab") as file:
                file.write(waiting)
        waiting.clear()

    def bytes(self, name: str) -> bytes:
        """Return a whole file."""
        return (self.folder / name).read_bytes()

    def column(self, name: str, field: str) -> np.ndarray:
        """Return one field of all records of a file, read in blocks."""
        kind, path = RECORDS[name], self.folder / name
        count = path.stat().st_size // kind.itemsize
        values = np.empty((count, *kind[field].shape), kind[field].base)
        with path.open("rb") as file:
            for start in range(0, count, _BLOCK):
                block = np.fromfile(file, kind, min(_BLOCK, count - start))
                values[start : start + len(block)] = block[field]
        return values

    def token_ids(
        self, name: str, places: Integer[np.ndarray, " n"]
    ) -> Iterator[UInt32[np.ndarray, " tokens"]]:
        """Yield the token ids of the prompts or responses at `places`, many at a time."""
        length = self.column(name, "length")
        offset = (np.cumsum(length, dtype=np.int64) - length)[places]
        length, numbers = length[places], np.arange(len(places), dtype=np.int32)
        for start, stop in pairwise(cut_units(length, numbers, _BLOCK, _BLOCK)):
            size = length[start:stop].astype(np.int64)
            if size.any():
                # Mapped anew each time, so that pages read before do not count as memory in use.
                tokens = np.memmap(self.folder / f"{name}.ids", "<u4", "r")
                shift = offset[start:stop] - (np.cumsum(size) - size)
                yield np.asarray(tokens[np.repeat(shift, size) + np.arange(size.sum())])


def distinct(
    keys: UInt64[np.ndarray, "n 2"],
) -> tuple[Integer[np.ndarray, " distinct"], Integer[np.ndarray, " n"]]:
    """Return where each different digest comes first, and for every digest the number of it among these.

    Digests are sorted in sixteen parts, so that little besides them and the result is held.
    """
    kind = np.int32 if len(keys) < 1 << 31 else np.int64
    first = np.empty(len(keys), kind)
    part = (keys[:, 0] >> np.uint64(60)).astype(np.uint8)
    for number in range(16):
        members = np.flatnonzero(part == number).astype(kind)
        members = members[np.lexsort(keys[members].T)]  # stable: equal ones stay in the order they came in
        ordered = keys[members]
        begins = np.ones(len(members), bool)
        begins[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
        first[members] = members[begins][np.cumsum(begins) - 1]
    is_first = first == np.arange(len(first), dtype=kind)
    return np.flatnonzero(is_first).astype(kind), (np.cumsum(is_first, dtype=kind) - 1)[first]
