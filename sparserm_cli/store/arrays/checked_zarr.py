"""Safe access to zarr: synced atomic writes, errors for missing chunks, and errors that name the file.

Plain zarr writes without fsync, leaves out empty chunks and reads a missing chunk as the fill value. Here
every key is written by `write_atomic` (on an object store by one upload, see `object_zarr`), every chunk is
written, and a missing chunk is an error to read.
Arrays have one chunk per unit, no shards, and crc32c; their files are `<array>/zarr.json` and
`<array>/c.<unit>.0`.
"""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any, Literal, Self

import numpy as np
import xxhash
import zarr
from zarr.abc.store import ByteRequest, Store
from zarr.codecs import Crc32cCodec
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore

from sparserm_cli.errors import CorruptStoreError
from sparserm_cli.store.io.file_facts import FileFact
from sparserm_cli.store.io.storage import storage_of

_DAMAGED = "run `sparserm verify --deep` to see all damage"
_THREADS = 2  # many workers share a machine; a unit has one chunk per array, so more threads would not help
_BROKEN = (ValueError, KeyError, TypeError, RuntimeError, FileNotFoundError)


class CheckedStore(Store):
    """A zarr store as readers and writers use it, on a disk or an object store.

    Attributes:
        location: folder or prefix of the artifact.
        written: mapping from key to the facts of the bytes that were written.

    """

    location: PurePath
    written: dict[str, FileFact]

    def _note(self, key: str, data: memoryview) -> None:
        """Record the facts of written bytes."""
        self.written[key] = FileFact(key, data.nbytes, xxhash.xxh3_128(data).hexdigest())

    def _found(self, key: str, value: Buffer | None) -> Buffer | None:
        """Return what was read at `key`; in a read-only store a missing chunk is an error."""
        if value is None and self.read_only and key.rpartition("/")[2].startswith("c."):
            raise CorruptStoreError(str(self.location / key), "a chunk", "no file", _DAMAGED)
        return value


class SafeStore(LocalStore, CheckedStore):
    """A zarr store on the local disk whose writes are synced and whose missing chunks are errors.

    Args:
        root: folder of the artifact.
        read_only: refuse writes, and raise CorruptStoreError for a missing chunk.
        sync: whether writes are synced, as in `write_atomic`.

    """

    def __init__(self, root: Path | str, *, read_only: bool = False, sync: bool = True) -> None:
        super().__init__(root, read_only=read_only)
        self.location, self.sync = self.root, sync
        self.written = {}

    def with_read_only(self, read_only: bool = False) -> Self:
        """Return a store of the same folder that shares the record of written bytes."""
        other = type(self)(self.root, read_only=read_only, sync=self.sync)
        other.written = self.written
        return other

    async def get(
        self,
        key: str,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """Return the bytes of `key`; in a read-only store a missing chunk is an error."""
        return self._found(key, await super().get(key, prototype, byte_range))

    async def set(self, key: str, value: Buffer) -> None:
        """Write `key` atomically and synced."""
        await asyncio.to_thread(self._write, key, value)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Write `key` atomically and synced, unless it exists."""
        if not (self.root / key).exists():
            await asyncio.to_thread(self._write, key, value)

    def set_sync(self, key: str, value: Buffer) -> None:
        """Write `key` atomically and synced."""
        self._write(key, value)

    def _write(self, key: str, value: Buffer) -> None:
        """Write `key`, and record the facts of its bytes."""
        self._check_writable()
        path = self.root / key
        if self.sync:
            storage_of(path.parent).make_folder()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
        data = bytes_of(value)
        storage_of(path).write_atomic(data, sync=self.sync)
        self._note(key, data)


def bytes_of(value: Buffer) -> memoryview:
    """Return the bytes of one of zarr's buffers, without a copy."""
    return memoryview(np.asarray(value.as_numpy_array()).data).cast("B")


@contextmanager
def zarr_settings() -> Iterator[None]:
    """Run zarr with few threads and write every chunk, whatever the user's configuration is."""
    settings = {
        "async.concurrency": _THREADS,
        "threading.max_workers": _THREADS,
        "array.write_empty_chunks": True,
    }
    with zarr.config.set(settings):
        yield


@contextmanager
def reading(where: str) -> Iterator[None]:
    """Turn the errors that zarr raises for damaged bytes into CorruptStoreError.

    Args:
        where: file and unit that are read.

    Raises:
        CorruptStoreError: a checksum, length or JSON in the file is wrong.

    """
    try:
        with zarr_settings():
            yield
    except _BROKEN as error:
        found = f"{type(error).__name__} ({' '.join(str(error).split())[:200]})"
        raise CorruptStoreError(where, "whole bytes", found, _DAMAGED) from error


def create_group(store: CheckedStore, path: str, attributes: Mapping[str, Any]) -> None:
    """Write a group's metadata."""
    with zarr_settings():
        zarr.create_group(store=store, path=path, attributes=dict(attributes))


def create_array(
    store: CheckedStore,
    path: str,
    shape: tuple[int, ...],
    chunks: tuple[int, ...],
    fill: np.generic,
    attributes: Mapping[str, Any] | None = None,
) -> None:
    """Write the metadata of an array at its final shape, and no chunk yet.

    Args:
        store: the store.
        path: path of the array in the store.
        shape: final shape of the array.
        chunks: shape of one chunk, which is one file.
        fill: fill value, whose type is that of the array; NaN where the type has one. It is never read,
            since a missing chunk is an error.
        attributes: attributes of the array.

    """
    with zarr_settings():
        options = array_options(shape, chunks, fill)
        zarr.create_array(store=store, name=path, attributes=dict(attributes or {}), **options)


def array_options(shape: tuple[int, ...], chunks: tuple[int, ...], fill: np.generic) -> dict[str, Any]:
    """Return the options of all arrays: no filter, no shard, crc32c, and chunks in one folder."""
    return {
        "shape": shape,
        "chunks": tuple(max(1, size) for size in chunks),
        "dtype": fill.dtype,
        "fill_value": fill.item(),
        "filters": None,
        "compressors": [Crc32cCodec()],
        "chunk_key_encoding": {"name": "default", "separator": "."},
    }


def open_array(store: CheckedStore, path: str) -> zarr.Array[Any]:
    """Open an array.

    Raises:
        CorruptStoreError: the metadata are missing or truncated.

    """
    with reading(str(store.location / path / "zarr.json")):
        mode: Literal["r", "r+"] = "r" if store.read_only else "r+"
        array = zarr.open_array(store=store, path=path, mode=mode, zarr_format=3)
        # open_array ignores a configuration for an existing array, so it is set here.
        return array.with_config({"write_empty_chunks": True})


def write_rows(array: zarr.Array[Any], start: int, values: np.ndarray) -> None:
    """Write whole chunks of rows at `start`."""
    with zarr_settings():
        array[start : start + len(values)] = values


def read_rows(store: CheckedStore, path: str, start: int, stop: int, unit: int | None = None) -> np.ndarray:
    """Read rows of an array.

    Raises:
        CorruptStoreError: a chunk is missing or damaged; the error names the array and the unit.

    """
    array = open_array(store, path)
    named = "" if unit is None else f" (unit {unit})"
    with reading(f"{store.location / path}{named}"):
        return np.asarray(array[start:stop])


def chunk_path(path: str, unit: int, dimensions: int = 2) -> str:
    """Return the path of an array's chunk of a unit."""
    return f"{path}/c.{unit}" + ".0" * (dimensions - 1)
