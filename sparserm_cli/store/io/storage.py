"""Reading and writing files on a local disk or on an object store, by the type of the path.

| | disk | object store |
|---|---|---|
| a file appears | by rename, after a sync | by one upload |
| a file appears only if it was absent | by a hard link | by a conditional upload |
| temporary files lie | beside the file | in the cache folder of this machine |
"""

import errno
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path, PurePath
from typing import TypeVar

import xxhash

from sparserm_cli.errors import SparseRMError
from sparserm_cli.locations import cache_folder
from sparserm_cli.store.io import local_disk as disk
from sparserm_cli.store.io import object_cache as remote_cache
from sparserm_cli.store.io import object_store as remote
from sparserm_cli.store.io.fault_points import operation

T = TypeVar("T")
U = TypeVar("U")

_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


def write_atomic(path: PurePath, data: bytes | memoryview, *, sync: bool = True) -> None:
    """Write `data` to `path`; after a crash the file has its complete old or new content.

    Args:
        path: the file; on a disk its folder must exist.
        data: the complete content.
        sync: sync the file at once; false only in a folder that is synced as a whole before its rename.

    Raises:
        ResourceError: the disk or quota is full, or the bucket does not exist.
        IncompatibleError, TemporaryError: as `object_store.remote_errors`.

    """
    if isinstance(path, Path):
        disk.write_atomic(path, data, sync=sync)
    else:
        remote.put(path, data)


def create(path: PurePath, data: bytes) -> bool:
    """Create a file with its content atomically, unless it exists; `data` must be unique to the caller.

    Returns:
        whether it was created.

    """
    return _link(path, data) if isinstance(path, Path) else remote.put_new(path, data)


def _link(path: Path, data: bytes) -> bool:
    """Create a file by a hard link, or by exclusive creation where there are no hard links."""
    part = disk.part_name(path)
    try:
        operation("write")
        part.write_bytes(data)
        operation("link")
        path.hardlink_to(part)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return _create_exclusively(path, data)
    finally:
        part.unlink(missing_ok=True)
    return True


def _create_exclusively(path: Path, data: bytes) -> bool:
    """Create a file exclusively; return False if it exists."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return False
    with os.fdopen(handle, "wb") as out:
        out.write(data)
    return True


def rename(source: PurePath, target: PurePath) -> None:
    """Rename a file; on an object store both names exist for a moment."""
    if isinstance(source, Path) and isinstance(target, Path):
        disk.rename(source, target)
    else:
        remote.put(target, remote.read(source))
        remote.remove(source)


def read_bytes(path: PurePath) -> bytes:
    """Read a whole file; raises FileNotFoundError."""
    return disk.read_bytes(path) if isinstance(path, Path) else remote.read(path)


def read_cached(path: PurePath) -> bytes:
    """Read a whole file, or the local copy of an object that has not changed.

    Raises:
        FileNotFoundError: the file does not exist.

    """
    return disk.read_bytes(path) if isinstance(path, Path) else remote_cache.read(path)


def size_of(path: PurePath | str) -> int:
    """Return the size of a file in bytes, or -1 if it does not exist. A string is a local path."""
    return disk.size_of(path) if isinstance(path, str | Path) else remote.size(path)


def digest_file(path: PurePath) -> str:
    """Return the xxh3-128 of a file in hexadecimal; it detects damage, not deliberate forgery."""
    if isinstance(path, Path):
        return disk.digest_file(path)
    return xxhash.xxh3_128_hexdigest(remote.read(path))


def is_there(folder: PurePath, sealed_by: str) -> bool:
    """Return whether an artifact exists, even if it is damaged.

    Args:
        folder: the artifact's folder or prefix; on a disk it appears as a whole, by rename.
        sealed_by: the object that is uploaded last.

    """
    return folder.exists() if isinstance(folder, Path) else remote.size(folder / sealed_by) >= 0


def names(folder: PurePath) -> list[str]:
    """Return the names in a folder, none if it is absent; the listing of an object store may lag behind."""
    if not isinstance(folder, Path):
        return remote.names(folder)
    return [path.name for path in folder.iterdir()] if folder.is_dir() else []


def bytes_below(path: PurePath) -> int:
    """Return the size in bytes of a file, or of all files in a folder together."""
    return disk.bytes_below(path) if isinstance(path, Path) else remote.bytes_below(path)


def remove(path: PurePath) -> None:
    """Remove a file, or on a disk a whole folder; an absent path is no error."""
    if isinstance(path, Path):
        disk.remove(path)
    else:
        remote.remove(path)


def discard(folder: PurePath) -> None:
    """Remove a folder that is no longer needed; failures are ignored."""
    if isinstance(folder, Path):
        shutil.rmtree(folder, ignore_errors=True)
    else:
        with suppress(SparseRMError):
            remote.remove_below(folder)


def make_folder(folder: PurePath) -> None:
    """Create `folder` and its parents and sync them; object stores have no folders."""
    if isinstance(folder, Path):
        disk.make_folder(folder)


def sync_folder(folder: PurePath) -> None:
    """Sync the entries of `folder`, so that a rename survives a power loss."""
    if isinstance(folder, Path):
        disk.sync_folder(folder)


def part_name(final: PurePath) -> Path:
    """Return a temporary local path, unique to this call, whose name contains the process."""
    if isinstance(final, Path):
        return disk.part_name(final)
    disk.make_folder(parts_folder())
    return disk.part_name(parts_folder() / final.name)


def parts_folder() -> Path:
    """Return the local folder of files that wait for their upload to an object store."""
    return cache_folder() / "parts"


def free_bytes(folder: PurePath) -> int | None:
    """Return the free bytes where `folder` lies or will lie; None on an object store, which has no limit."""
    return disk.free_bytes(folder) if isinstance(folder, Path) else None


def absolute(folder: PurePath) -> PurePath:
    """Return a path that does not depend on the working directory."""
    return folder.resolve() if isinstance(folder, Path) else folder


def for_each(folder: PurePath, act: Callable[[T], U], items: Sequence[T]) -> list[U]:
    """Apply `act` to every item: in turn on a disk, concurrently on an object store."""
    return [act(item) for item in items] if isinstance(folder, Path) else remote.side_by_side(act, items)
