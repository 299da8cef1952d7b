"""A location on an object store, reached through fsspec; every change of the store is a fault point.

An upload is atomic, so temporary names and syncing are not needed. Existence is checked by key, never by a
listing, which may lag behind; listings only serve reports and removals. The client library retries transient
failures a bounded number of times; a failure after that is raised as an error of this package.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path, PurePath
from typing import Any, TypeVar

import xxhash

from sparserm_cli.errors import IncompatibleError, ResourceError, SparseRMError, TemporaryError, UsageError
from sparserm_cli.locations import OBJECT_STORES, cache_folder
from sparserm_cli.store.io import local_disk as disk
from sparserm_cli.store.io import object_cache
from sparserm_cli.store.io.fault_points import fault_point, operation

T = TypeVar("T")
U = TypeVar("U")

_CONNECTIONS = 16
_verified_buckets: set[str] = set()
_NO_CREDENTIALS = {
    "NoCredentialsError",
    "PartialCredentialsError",
    "CredentialRetrievalError",
    "TokenRetrievalError",
}


def filesystem(path: PurePath) -> Any:
    """Return fsspec's file system for a URL.

    Raises:
        UsageError: the package for its protocol is not installed.

    """
    protocol = str(path).partition("://")[0]
    try:
        return _filesystem(protocol, os.getpid())
    except ImportError as error:
        hint = f"pip install '{OBJECT_STORES[protocol]}'"
        raise UsageError(str(path), f"the package for {protocol}://", "none", hint) from error


@cache
def _filesystem(protocol: str, _process: int) -> Any:
    """Create one file system per process; fsspec caches one per thread, and none survives a fork."""
    import fsspec

    return fsspec.filesystem(protocol, use_listings_cache=False)


@contextmanager
def remote_errors(path: PurePath) -> Iterator[None]:
    """Turn errors of client libraries into those of this package; FileNotFoundError and FileExistsError pass.

    Raises:
        IncompatibleError: there are no credentials, or they do not permit the operation.
        TemporaryError: the store does not answer, or its answer cannot be understood.

    """
    try:
        yield
    except (FileNotFoundError, FileExistsError, SparseRMError):
        raise
    except Exception as error:  # every client library has errors of its own
        found = " ".join(str(error).split())[:200] or type(error).__name__
        if isinstance(error, PermissionError) or type(error).__name__ in _NO_CREDENTIALS:
            hint = "give credentials as its command line tools take them, or choose another --run"
            raise IncompatibleError(str(path), "access to the object store", found, hint) from error
        hint = "run the same command again later; what is done is kept"
        raise TemporaryError(str(path), "an answer of the object store", found, hint) from error


@contextmanager
def _needs_bucket(path: PurePath) -> Iterator[None]:
    """Turn a missing bucket into ResourceError."""
    try:
        yield
    except FileNotFoundError as error:
        hint = "make it, or choose another --run"
        raise ResourceError(str(path), "a bucket to write to", "none of this name", hint) from error


class ObjectStorage:
    """An object or a prefix of an object store, as `storage.Storage` describes it.

    Every method raises `IncompatibleError` and `TemporaryError` as `remote_errors` states.

    Args:
        path: its URL.

    """

    __slots__ = ("path",)

    def __init__(self, path: PurePath) -> None:
        self.path = path

    @property
    def _files(self) -> Any:
        """Return the file system of the URL."""
        return filesystem(self.path)

    def write_atomic(self, data: bytes | memoryview, *, sync: bool = True) -> None:
        """Upload the object, which appears or changes at once; raises ResourceError without a bucket."""
        operation("put")
        with _needs_bucket(self.path), remote_errors(self.path):
            self._files.pipe_file(str(self.path), bytes(data))

    def create(self, data: bytes) -> bool:
        """Create the object unless it exists; return whether it now holds `data`.

        A retried request may meet the object of the first request, whose answer was lost. It is recognised
        by its content, so `data` must be unique to the caller.

        Raises:
            IncompatibleError: the store overwrites existing objects.
            ResourceError: there is no such bucket.

        """
        operation("put")
        if self._create(data):
            self._require_condition()
            return True
        try:
            return self.read_bytes() == data
        except FileNotFoundError:
            return False

    def _create(self, data: bytes) -> bool:
        """Create the object unless it exists; return whether it was created."""
        try:
            with _needs_bucket(self.path), remote_errors(self.path):
                self._files.pipe_file(str(self.path), data, mode="create")
        except FileExistsError:
            return False
        return True

    def _require_condition(self) -> None:
        """Check once per bucket that its server refuses to overwrite, by means of this existing object.

        Some S3-compatible servers do not.
        """
        bucket = "/".join(self.path.parts[:2])
        if bucket in _verified_buckets:
            return
        if self._create(b""):
            self.remove()
            expected, found = "a store that makes an object only if it is absent", "one that replaced it"
            hint = "choose another --run, since two runs could not be told apart here"
            raise IncompatibleError(str(self.path), expected, found, hint)
        _verified_buckets.add(bucket)

    def rename(self, name: str) -> None:
        """Upload the content under the other name, then remove this object."""
        ObjectStorage(self.path.with_name(name)).write_atomic(self.read_bytes())
        self.remove()

    def read_bytes(self) -> bytes:
        """Return the bytes of the object; raises FileNotFoundError."""
        with remote_errors(self.path):
            return bytes(self._files.cat_file(str(self.path)))

    def read_cached(self) -> bytes:
        """Return the bytes of the object, from this machine's copy if it is the newest version."""
        key = f"{self.path} {self._version()}".encode()
        return object_cache.kept(xxhash.xxh3_128_hexdigest(key), self.read_bytes)

    def _version(self) -> str:
        """Return a text that changes with every write, such as the ETag; raises FileNotFoundError."""
        with remote_errors(self.path):
            return str(self._files.ukey(str(self.path)))

    def size(self, below: str = "") -> int:
        """Return the size of the object, or of the one at `below`, in bytes; -1 if it does not exist."""
        path = self.path / below if below else self.path
        try:
            with remote_errors(path):
                info = filesystem(path).info(str(path))
        except FileNotFoundError:
            return -1
        return int(info["size"]) if info["type"] == "file" else -1

    def digest(self) -> str:
        """Return the xxh3-128 of the object in hexadecimal."""
        return xxhash.xxh3_128_hexdigest(self.read_bytes())

    def is_link(self) -> bool:
        """Return False, since object stores have no links."""
        return False

    def is_there(self, sealed_by: str) -> bool:
        """Return whether the object that is uploaded last exists."""
        return self.size(sealed_by) >= 0

    def names(self) -> list[str]:
        """Return the names directly below the prefix."""
        try:
            with remote_errors(self.path):
                paths = self._files.ls(str(self.path), detail=False)
        except FileNotFoundError:
            return []
        return [PurePath(path).name for path in paths]

    def bytes_below(self) -> int:
        """Return the total size in bytes of all objects below the prefix."""
        try:
            with remote_errors(self.path):
                return int(self._files.du(str(self.path)))
        except FileNotFoundError:
            return 0

    def free_bytes(self) -> None:
        """Return None, since an object store has no limit."""
        return

    def absolute(self) -> PurePath:
        """Return the URL."""
        return self.path

    def make_folder(self) -> None:
        """Do nothing, since object stores have no folders."""

    def sync_folder(self) -> None:
        """Do nothing, since an upload is durable."""

    def log_folder(self) -> Path:
        """Return the cache folder."""
        return cache_folder()

    def parts_folder(self) -> Path:
        """Return the folder of files that wait for their upload, which all runs of this machine share."""
        return cache_folder() / "parts"

    def part_name(self) -> Path:
        """Return a temporary path in `parts_folder`."""
        disk.make_folder(self.parts_folder())
        return disk.part_name(self.parts_folder() / self.path.name)

    def put_file(self, part: Path) -> None:
        """Upload the finished file and remove it here."""
        self.write_atomic(part.read_bytes())
        part.unlink()

    def put_folder(self, part: Path, sealed_by: str) -> None:
        """Upload the finished folder; until its last file is there, readers see no artifact."""

        def put(name: str) -> None:
            ObjectStorage(self.path / name).write_atomic((part / name).read_bytes())

        ObjectStorage(self.path / sealed_by).remove()
        files = [path.relative_to(part).as_posix() for path in part.rglob("*") if path.is_file()]
        self.for_each(put, [name for name in files if name != sealed_by])
        fault_point("folder-put")
        put(sealed_by)
        shutil.rmtree(part, ignore_errors=True)

    def remove(self) -> None:
        """Remove the object; an absent one is no error."""
        operation("remove")
        with suppress(FileNotFoundError), remote_errors(self.path):
            self._files.rm_file(str(self.path))

    def remove_artifact(self, *seals: str) -> None:
        """Remove the seals in their order, then everything below the prefix."""
        for seal in seals:
            ObjectStorage(self.path / seal).remove()
        self._remove_below()

    def _remove_below(self) -> None:
        """Remove all objects below the prefix; an empty prefix is no error."""
        operation("remove")
        with suppress(FileNotFoundError), remote_errors(self.path):
            self._files.rm(str(self.path), recursive=True)

    def discard(self) -> None:
        """Remove what is below the prefix, if the store permits it."""
        with suppress(SparseRMError):
            self._remove_below()

    def for_each(self, act: Callable[[T], U], items: Sequence[T]) -> list[U]:
        """Apply `act` to all items concurrently, since each call takes a round trip."""
        with ThreadPoolExecutor(_CONNECTIONS) as pool:
            return list(pool.map(act, items))
