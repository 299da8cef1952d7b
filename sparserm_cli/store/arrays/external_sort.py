"""Tables of numbers on the local disk that may exceed memory, with append, read and external sort.

Sorting compares the bytes of records, so the fields of a sorted table are unsigned and big-endian; records
are then ordered by the first field, ties by the next. Memory: a few blocks of `BLOCK` records for any table.
"""

import shutil
from collections.abc import Iterable, Iterator
from itertools import count, pairwise
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from jaxtyping import Bool, Integer
from numpy.typing import DTypeLike

from sparserm_cli.store.io.fault_points import fault_point
from sparserm_cli.store.io.local_disk import disk_errors
from sparserm_cli.store.io.storage import storage_of

BLOCK = 1 << 19
"""Number of records that are read, sorted or processed at a time."""
_WRITE_BYTES = 1 << 20


def fields(*names: str) -> np.dtype[np.void]:
    """Return a record type of non-negative numbers that can be sorted."""
    return np.dtype([(name, ">u8") for name in names])


class DiskTable:
    """Records of one type in a file.

    Args:
        path: path of the file, which is created with the first record.
        kind: numpy type of a record.

    """

    def __init__(self, path: Path, kind: DTypeLike) -> None:
        self.path, self.kind = path, np.dtype(kind)
        self._waiting = bytearray()
        self._bytes = 0

    def __len__(self) -> int:
        """Return the number of records."""
        return self._bytes // self.kind.itemsize

    def append(self, data: bytes) -> None:
        """Append packed records; they are written in blocks of 1 MiB.

        Raises:
            ResourceError: the disk is full.

        """
        self._waiting += data
        self._bytes += len(data)
        if len(self._waiting) >= _WRITE_BYTES:
            self._write()

    def add(self, first: np.ndarray, *others: np.ndarray | int) -> None:
        """Append records, given as one array per field; raises the errors of `append`."""
        block = np.empty(len(first), self.kind)
        for name, column in zip(self.kind.names or (), (first, *others), strict=True):
            block[name] = column
        self.append(block.tobytes())

    def extend(self, blocks: Iterable[np.ndarray]) -> Self:
        """Append blocks of records and return the table; raises the errors of `append`."""
        for block in blocks:
            self.append(np.asarray(block, self.kind).tobytes())
        return self

    def _write(self) -> None:
        """Write the buffered records to the file."""
        if not self._waiting:
            return
        with disk_errors(self.path, len(self._waiting)):
            fault_point("table")
            with self.path.open("ab") as file:
                file.write(self._waiting)
        self._waiting.clear()

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return the records from `start` up to `stop` (exclusive) or the end of the table."""
        number = min(stop, len(self)) - start
        if number <= 0:
            return np.zeros(0, self.kind)
        self._write()
        return np.fromfile(self.path, self.kind, number, offset=start * self.kind.itemsize)

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield all records, `BLOCK` at a time."""
        for start in range(0, len(self), BLOCK):
            yield self.read(start, start + BLOCK)

    def copy(self, path: Path) -> None:
        """Write all records to another file."""
        with path.open("wb") as file:
            for block in self.blocks():
                block.tofile(file)

    def at(self, positions: Integer[np.ndarray, " n"]) -> np.ndarray:
        """Return the records at the given positions, of which there is at least one."""
        self._write()
        # A new mapping each time keeps pages that were read before from counting as used memory.
        return np.asarray(np.memmap(self.path, self.kind, "r")[positions.astype(np.int64)])

    def sorted(self) -> Iterator[np.ndarray]:
        """Yield all records in increasing order, about `BLOCK` at a time, then remove the table.

        Runs of `BLOCK` records are sorted in place. Each yielded block merges one piece of every run: the
        records above one pivot and up to the next. A yielded block has at most two blocks of records, unless
        there are more runs than records per block, or one record is repeated that often.
        """
        starts, text = range(0, len(self), BLOCK), f"S{self.kind.itemsize}"
        pivots = self._sort_runs(starts, text)
        cuts = []
        for start in starts:
            run = self.read(start, start + BLOCK).view(text)
            cuts.append([0, *np.searchsorted(run, pivots, side="right").tolist(), len(run)])
        for lows, highs in pairwise(zip(*cuts, strict=True)):
            spans = zip(starts, lows, highs, strict=True)
            pieces = [self.read(start + low, start + high).view(text) for start, low, high in spans]
            block = np.sort(np.concatenate(pieces), kind="stable")
            if len(block):
                yield block.view(self.kind)
        self.path.unlink(missing_ok=True)

    def _sort_runs(self, starts: range, text: str) -> np.ndarray:
        """Sort every run in place; return pivots that divide the whole table into pieces of about one block.

        Each sorted run is sampled at regular intervals of `BLOCK` divided by the number of runs. Every k-th
        of the merged samples, with k the number of runs, is a pivot.
        """
        samples = [np.zeros(0, text)]
        for start in starts:
            run = np.sort(self.read(start, start + BLOCK).view(text), kind="stable")
            np.memmap(self.path, text, "r+")[start : start + BLOCK] = run
            step = max(1, BLOCK // len(starts))
            samples.append(run[step - 1 :: step].copy())
        return np.sort(np.concatenate(samples))[len(starts) - 1 :: max(1, len(starts))]


class ScratchFolder:
    """A temporary folder of tables.

    Args:
        folder: path, created on entry and removed on exit.

    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._numbers = count()

    def __enter__(self) -> Self:
        """Create the folder."""
        storage_of(self.folder).make_folder()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the folder and its content."""
        self.remove()

    def remove(self) -> None:
        """Remove the folder with all tables."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def table(self, kind: DTypeLike) -> DiskTable:
        """Return a new, empty table."""
        return DiskTable(self.folder / str(next(self._numbers)), kind)

    def sorted(self, table: DiskTable) -> DiskTable:
        """Return a new table with the records of `table` in increasing order, and remove `table`."""
        return self.table(table.kind).extend(table.sorted())


def groups(blocks: Iterable[np.ndarray], field: str) -> Iterator[tuple[np.ndarray, Bool[np.ndarray, " n"]]]:
    """Yield each block with a mask of the records that differ in a field from the record before."""
    last = None
    for block in blocks:
        values = block[field]
        begins = np.concatenate([[last is None or values[0] != last], values[1:] != values[:-1]])
        last = values[-1]
        yield block, begins
