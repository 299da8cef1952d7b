"""Zarr on an object store, with one upload per key; each machine caches the files that the plan records."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Self

import xxhash
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import FsspecStore

from sparserm_cli.errors import CorruptStoreError
from sparserm_cli.store.arrays.checked_zarr import CheckedStore, SafeStore, bytes_of
from sparserm_cli.store.io import object_cache
from sparserm_cli.store.io.fault_points import operation
from sparserm_cli.store.io.file_facts import FileFact
from sparserm_cli.store.io.object_store import ObjectStorage, filesystem, remote_errors
from sparserm_cli.store.units.records import Plan

_HINT = "run `sparserm verify`"


def zarr_store(root: PurePath, plan: Plan, *, read_only: bool = False) -> CheckedStore:
    """Open the zarr store of a planned artifact, on a disk or an object store.

    Args:
        root: the artifact's folder or prefix.
        plan: plan of the artifact.
        read_only: refuse writes, and raise CorruptStoreError for a missing chunk.

    """
    if isinstance(root, Path):
        return SafeStore(root, read_only=read_only)
    return RemoteStore(root, plan.files, read_only=read_only)


class RemoteStore(FsspecStore, CheckedStore):
    """A zarr store on an object store, whose missing chunks are errors.

    Args:
        root: the artifact's prefix.
        planned: files that the plan records and that never change: metadata and rows arrays.
        read_only: refuse writes, and raise CorruptStoreError for a missing chunk.

    """

    def __init__(self, root: PurePath, planned: Sequence[FileFact] = (), *, read_only: bool = False) -> None:
        # Zarr's event loop shares the client of everything else, instead of opening sockets of its own.
        files = AsyncFileSystemWrapper(filesystem(root), asynchronous=True)
        super().__init__(files, read_only=read_only, path=str(root).partition("://")[2])
        self.location, self.written = root, {}
        self._planned: Mapping[str, FileFact] = {file.path: file for file in planned}

    def with_read_only(self, read_only: bool = False) -> Self:
        """Return a store of the same prefix that shares the record of written bytes."""
        other = type(self)(self.location, tuple(self._planned.values()), read_only=read_only)
        other.written = self.written
        return other

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return the bytes of `key`; files that the plan records come from this machine's cache."""
        if key in self._planned and byte_range is None:
            data = await asyncio.to_thread(_frozen, self.location / key, self._planned[key])
            return prototype.buffer.from_bytes(data)
        with remote_errors(self.location / key):
            return self._found(key, await super().get(key, prototype, byte_range))

    async def set(self, key: str, value: Buffer, byte_range: tuple[int, int] | None = None) -> None:
        """Write `key` with one upload."""
        operation("put")
        with remote_errors(self.location / key):
            await super().set(key, value, byte_range)
        self._note(key, bytes_of(value))


def _frozen(path: PurePath, fact: FileFact) -> bytes:
    """Return the bytes of an object that never changes.

    Raises:
        CorruptStoreError: the object is not there, or has other bytes than were recorded.

    """

    def fetch() -> bytes:
        try:
            data = ObjectStorage(path).read_bytes()
        except FileNotFoundError:
            raise CorruptStoreError(str(path), f"{fact.size:,} bytes", "no file", _HINT) from None
        if (found := xxhash.xxh3_128_hexdigest(data)) != fact.xxh3_128:
            raise CorruptStoreError(str(path), f"xxh3-128 {fact.xxh3_128}", found, _HINT)
        return data

    return object_cache.kept(fact.xxh3_128, fetch)
