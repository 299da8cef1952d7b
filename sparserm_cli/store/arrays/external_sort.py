"""Tables of numbers on this machine's disk that are too long for memory: appended to, read back and sorted.

A table that is sorted has fields that stand in the order of their bytes: unsigned, the highest byte first.
So do its records, by the first field, then by the next. Memory: a few blocks of `BLOCK` records, however long
a table is.
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
from sparserm_cli.store.io.storage import make_folder

BLOCK = 1 << 19
"""Records read, sorted or worked on at a time."""
_WRITE_BYTES = 1 << 20


def fields(*names: str) -> np.dtype[np.void]:
    """Return the type of a record of numbers from 0 up that can be sorted."""
    return np.dtype([(name, ">u8") for name in names])


class DiskTable:
    """Records of one type in a file.

    Args:
        path: the file, made with the first record.
        kind: the type of a record.

    """

    def __init__(self, path: Path, kind: DTypeLike) -> None:
        self.path, self.kind = path, np.dtype(kind)
        self._waiting = bytearray()
        self._bytes = 0

    def __len__(self) -> int:
        """Return the number of records."""
        return self._bytes // self.kind.itemsize

    def append(self, data: bytes) -> None:
        """Append packed records; they are written a mebibyte at a time.

        Raises:
            ResourceError: the disk is full.

        """
        self._waiting += data
        self._bytes += len(data)
        if len(self._waiting) >= _WRITE_BYTES:
            self._write()

    def add(self, first: np.ndarray, *others: np.ndarray | int) -> None:
        """Append records, given field by field; raises as `append`."""
        block = np.empty(len(first), self.kind)
        for name, column in zip(self.kind.names or (), (first, *others), strict=True):
            block[name] = column
        self.append(block.tobytes())

    def extend(self, blocks: Iterable[np.ndarray]) -> Self:
        """Append blocks of records and return the table; raises as `append`."""
        for block in blocks:
            self.append(np.asarray(block, self.kind).tobytes())
        return self

    def _write(self) -> None:
        """Write what waits."""
        if not self._waiting:
            return
        with disk_errors(self.path, len(self._waiting)):
            fault_point("table")
            with self.path.open("ab") as file:
                file.write(self._waiting)
        self._waiting.clear()

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return the records from `start` to below `stop`, or to the end."""
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

    def at(self, places: Integer[np.ndarray, " n"]) -> np.ndarray:
        """Return the records at some places, of which there is one at least."""
        self._write()
        # Mapped anew each time, so that pages read before do not count as memory in use.
        return np.asarray(np.memmap(self.path, self.kind, "r")[places.astype(np.int64)])

    def sorted(self) -> Iterator[np.ndarray]:
        """Yield all records in rising order, about `BLOCK` at a time; the table is gone after the last.

        Stretches of `BLOCK` are sorted where they lie. What is yielded together is a piece of each stretch:
        all that is above one bound and not above the next. No more than two blocks are, unless there are more
        stretches than records in a block, or one record comes that often.
        """
        starts, text = range(0, len(self), BLOCK), f"S{self.kind.itemsize}"
        bounds = self._sort_stretches(starts, text)
        cuts = []
        for start in starts:
            stretch = self.read(start, start + BLOCK).view(text)
            cuts.append([0, *np.searchsorted(stretch, bounds, side="right").tolist(), len(stretch)])
        for lows, highs in pairwise(zip(*cuts, strict=True)):
            places = zip(starts, lows, highs, strict=True)
            pieces = [self.read(start + low, start + high).view(text) for start, low, high in places]
            block = np.sort(np.concatenate(pieces), kind="stable")
            if len(block):
                yield block.view(self.kind)
        self.path.unlink(missing_ok=True)

    def _sort_stretches(self, starts: range, text: str) -> np.ndarray:
        """Sort every stretch, and return records that cut the whole table into pieces of about a block.

        Every so many records of a stretch are its sample, so many that those of all stretches are a block
        apart. Of all samples together, every one that is as many on as there are stretches is a bound.
        """
        samples = [np.zeros(0, text)]
        for start in starts:
            stretch = np.sort(self.read(start, start + BLOCK).view(text), kind="stable")
            np.memmap(self.path, text, "r+")[start : start + BLOCK] = stretch
            step = max(1, BLOCK // len(starts))
            samples.append(stretch[step - 1 :: step].copy())
        return np.sort(np.concatenate(samples))[len(starts) - 1 :: max(1, len(starts))]


class ScratchFolder:
    """A folder of tables.

    Args:
        folder: made on entry, removed on exit.

    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._numbers = count()

    def __enter__(self) -> Self:
        """Make the folder."""
        make_folder(self.folder)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the folder and all that is in it."""
        self.remove()

    def remove(self) -> None:
        """Remove the folder, which nobody needs any more."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def table(self, kind: DTypeLike) -> DiskTable:
        """Return a new table."""
        return DiskTable(self.folder / str(next(self._numbers)), kind)

    def sorted(self, table: DiskTable) -> DiskTable:
        """Return a table with the records of another in rising order; the other is gone."""
        return self.table(table.kind).extend(table.sorted())


def groups(blocks: Iterable[np.ndarray], field: str) -> Iterator[tuple[np.ndarray, Bool[np.ndarray, " n"]]]:
    """Yield each block with a mask of the records at which the value of a field changes; the first is one."""
    last = None
    for block in blocks:
        values = block[field]
        begins = np.concatenate([[last is None or values[0] != last], values[1:] != values[:-1]])
        last = values[-1]
        yield block, begins
