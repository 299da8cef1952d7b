"""Operations on an object store through fsspec; every one that changes the store is a fault point.

An upload is atomic, so temporary names and syncing are not needed. Existence is checked by key, never by a
listing, which may lag behind; listings only serve reports and removals. The client library retries transient
failures a bounded number of times; a failure after that is raised as an error of this package.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import PurePath
from typing import Any, TypeVar

from sparserm_cli.errors import IncompatibleError, ResourceError, SparseRMError, TemporaryError, UsageError
from sparserm_cli.locations import OBJECT_STORES
from sparserm_cli.store.io.fault_points import operation

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


def read(path: PurePath) -> bytes:
    """Return the bytes of an object; raises FileNotFoundError, and as `remote_errors`."""
    with remote_errors(path):
        return bytes(filesystem(path).cat_file(str(path)))


def put(path: PurePath, data: bytes | memoryview) -> None:
    """Write an object atomically; an existing one is replaced.

    Raises:
        ResourceError: there is no such bucket.
        IncompatibleError, TemporaryError: as `remote_errors`.

    """
    operation("put")
    with _needs_bucket(path), remote_errors(path):
        filesystem(path).pipe_file(str(path), bytes(data))


def put_new(path: PurePath, data: bytes) -> bool:
    """Create an object atomically unless it exists; return whether it now holds these bytes.

    A retried request may meet the object of the first request, whose answer was lost. It is recognised by its
    content, so `data` must be unique to the caller.

    Raises:
        IncompatibleError: the store overwrites existing objects; or as `put`.
        ResourceError, TemporaryError: as `put`.

    """
    operation("put")
    if _create(path, data):
        _require_condition(path)
        return True
    try:
        return read(path) == data
    except FileNotFoundError:
        return False


def _create(path: PurePath, data: bytes) -> bool:
    """Create an object unless it exists; return whether it was created."""
    try:
        with _needs_bucket(path), remote_errors(path):
            filesystem(path).pipe_file(str(path), data, mode="create")
    except FileExistsError:
        return False
    return True


def _require_condition(there: PurePath) -> None:
    """Check once per bucket that its server refuses to overwrite; some S3-compatible servers do not.

    Args:
        there: an existing object of this package.

    """
    bucket = "/".join(there.parts[:2])
    if bucket in _verified_buckets:
        return
    if _create(there, b""):
        remove(there)
        expected, found = "a store that makes an object only if it is absent", "one that replaced it"
        hint = "choose another --run, since two runs could not be told apart here"
        raise IncompatibleError(str(there), expected, found, hint)
    _verified_buckets.add(bucket)


@contextmanager
def _needs_bucket(path: PurePath) -> Iterator[None]:
    """Turn a missing bucket into ResourceError."""
    try:
        yield
    except FileNotFoundError as error:
        hint = "make it, or choose another --run"
        raise ResourceError(str(path), "a bucket to write to", "none of this name", hint) from error


def size(path: PurePath) -> int:
    """Return the size of an object in bytes, or -1 if it does not exist."""
    try:
        with remote_errors(path):
            info = filesystem(path).info(str(path))
    except FileNotFoundError:
        return -1
    return int(info["size"]) if info["type"] == "file" else -1


def version(path: PurePath) -> str:
    """Return a text that changes with every write of an object, such as its ETag; raises FileNotFoundError.

    Raises:
        IncompatibleError, TemporaryError: as `remote_errors`.

    """
    with remote_errors(path):
        return str(filesystem(path).ukey(str(path)))


def remove(path: PurePath) -> None:
    """Remove an object; an absent one is no error."""
    operation("remove")
    try:
        with remote_errors(path):
            filesystem(path).rm_file(str(path))
    except FileNotFoundError:
        return


def remove_below(folder: PurePath) -> None:
    """Remove all objects below a prefix; an empty prefix is no error."""
    operation("remove")
    try:
        with remote_errors(folder):
            filesystem(folder).rm(str(folder), recursive=True)
    except FileNotFoundError:
        return


def names(folder: PurePath) -> list[str]:
    """Return the names directly below a prefix."""
    try:
        with remote_errors(folder):
            paths = filesystem(folder).ls(str(folder), detail=False)
    except FileNotFoundError:
        return []
    return [PurePath(path).name for path in paths]


def bytes_below(folder: PurePath) -> int:
    """Return the total size in bytes of all objects below a prefix."""
    try:
        with remote_errors(folder):
            return int(filesystem(folder).du(str(folder)))
    except FileNotFoundError:
        return 0


def side_by_side(act: Callable[[T], U], items: Sequence[T]) -> list[U]:
    """Apply `act` to all items concurrently, since each call takes a round trip."""
    with ThreadPoolExecutor(_CONNECTIONS) as pool:
        return list(pool.map(act, items))
