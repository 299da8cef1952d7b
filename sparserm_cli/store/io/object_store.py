"""The few things that are asked of an object store, through fsspec; each that changes it is a fault point.

An object is put whole or not at all, so there are no temporary names and nothing to sync. What is there is
asked by its key: listings only tell people how much there is, or say what may be removed. The client library
repeats what may pass, a bounded number of times; what it then gives up becomes an error of ours.
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
        UsageError: its package is not installed.

    """
    protocol = str(path).partition("://")[0]
    try:
        return _filesystem(protocol, os.getpid())
    except ImportError as error:
        hint = f"pip install '{OBJECT_STORES[protocol]}'"
        raise UsageError(str(path), f"the package for {protocol}://", "none", hint) from error


@cache
def _filesystem(protocol: str, _process: int) -> Any:
    """Make a file system, one a process: fsspec's own cache has one a thread, and none outlives a fork."""
    import fsspec

    return fsspec.filesystem(protocol, use_listings_cache=False)


@contextmanager
def remote_errors(path: PurePath) -> Iterator[None]:
    """Turn what a client library raises into an error of ours; an object absent or present is left as it is.

    Raises:
        IncompatibleError: there are no credentials, or they do not allow it.
        TemporaryError: the store does not answer, or not in a way that makes sense.

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
    """Make an object, or replace it in one step.

    Raises:
        ResourceError: there is no such bucket.
        IncompatibleError, TemporaryError: as `remote_errors`.

    """
    operation("put")
    with _needs_bucket(path), remote_errors(path):
        filesystem(path).pipe_file(str(path), bytes(data))


def put_new(path: PurePath, data: bytes) -> bool:
    """Make an object unless it is there, in one step; tell whether these bytes are there now.

    A repeated request may find what the first one, whose answer was lost, has made: the bytes tell, so they
    must be the caller's alone.

    Raises:
        IncompatibleError: the store makes it although it is there; or as `put`.
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
    """Make an object unless it is there; tell whether it was made."""
    try:
        with _needs_bucket(path), remote_errors(path):
            filesystem(path).pipe_file(str(path), data, mode="create")
    except FileExistsError:
        return False
    return True


def _require_condition(there: PurePath) -> None:
    """Make sure, once a bucket, that its server heeds the condition: some that speak S3 ignore it.

    Args:
        there: an object of ours.

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
    """Say that a bucket is missing."""
    try:
        yield
    except FileNotFoundError as error:
        hint = "make it, or choose another --run"
        raise ResourceError(str(path), "a bucket to write to", "none of this name", hint) from error


def size(path: PurePath) -> int:
    """Return the size of an object in bytes; -1 if it is not there."""
    try:
        with remote_errors(path):
            info = filesystem(path).info(str(path))
    except FileNotFoundError:
        return -1
    return int(info["size"]) if info["type"] == "file" else -1


def version(path: PurePath) -> str:
    """Return what changes when an object is put anew, such as its ETag; FileNotFoundError if it is not there.

    Raises:
        IncompatibleError, TemporaryError: as `remote_errors`.

    """
    with remote_errors(path):
        return str(filesystem(path).ukey(str(path)))


def remove(path: PurePath) -> None:
    """Remove an object; nothing there is fine."""
    operation("remove")
    try:
        with remote_errors(path):
            filesystem(path).rm_file(str(path))
    except FileNotFoundError:
        return


def remove_below(folder: PurePath) -> None:
    """Remove all objects below a prefix; nothing there is fine."""
    operation("remove")
    try:
        with remote_errors(folder):
            filesystem(folder).rm(str(folder), recursive=True)
    except FileNotFoundError:
        return


def names(folder: PurePath) -> list[str]:
    """Return the names right below a prefix."""
    try:
        with remote_errors(folder):
            paths = filesystem(folder).ls(str(folder), detail=False)
    except FileNotFoundError:
        return []
    return [PurePath(path).name for path in paths]


def bytes_below(folder: PurePath) -> int:
    """Return the bytes of all objects below a prefix."""
    try:
        with remote_errors(folder):
            return int(filesystem(folder).du(str(folder)))
    except FileNotFoundError:
        return 0


def side_by_side(act: Callable[[T], U], items: Sequence[T]) -> list[U]:
    """Do something for every item at a time when each takes a round trip."""
    with ThreadPoolExecutor(_CONNECTIONS) as pool:
        return list(pool.map(act, items))
