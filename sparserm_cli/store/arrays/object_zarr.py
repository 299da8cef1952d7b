"""Zarr on an object store: one upload per key, and files recorded in the plan are cached on each machine."""

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
    """Open the zarr store of a planned artifact, wherever it lies.

    Args:
        root: the artifact's folder or prefix.
        plan: its plan.
        read_only: as `SafeStore` has it.

    """
    if isinstance(root, Path):
        return SafeStore(root, read_only=read_only)
    return RemoteStore(root, plan.files, read_only=read_only)


class RemoteStore(FsspecStore, CheckedStore):
    """A zarr store on an object store, whose missing chunks are errors.

    Args:
        root: the artifact's prefix.
        planned: files that never change, which the plan knows: metadata and rows arrays.
        read_only: refuse writes, and raise CorruptStoreError for a chunk that is not there.

    """

    def __init__(self, root: PurePath, planned: Sequence[FileFact] = (), *, read_only: bool = False) -> None:
        # Zarr's event loop gets the client that everything else has, not one more with sockets of its own.
        files = AsyncFileSystemWrapper(filesystem(root), asynchronous=True)
        super().__init__(files, read_only=read_only, path=str(root).partition("://")[2])
        self.location, self.written = root, {}
        self._planned: Mapping[str, FileFact] = {file.path: file for file in planned}

    def with_read_only(self, read_only: bool = False) -> Self:
        """Return a store of the same prefix; what was written so far is known to both."""
        other = type(self)(self.location, tuple(self._planned.values()), read_only=read_only)
        other.written = self.written
        return other

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return the bytes of `key`; what the plan knows comes from this machine's cache."""
        if key in self._planned and byte_range is None:
            data = await asyncio.to_thread(_frozen, self.location / key, self._planned[key])
            return prototype.buffer.from_bytes(data)
        with remote_errors(self.location / key):
            return self._found(key, await super().get(key, prototype, byte_range))

    async def set(self, key: str, value: Buffer, byte_range: tuple[int, int] | None = None) -> None:
        """Put `key` in one step."""
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
