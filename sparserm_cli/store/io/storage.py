"""The operations everything is written and read with, on a disk or on an object store.

| | disk | object store |
|---|---|---|
| a file appears | by rename, synced | by one put |
| only if absent | by a hard link | by a conditional put |
| temporary files | beside it | in this machine's cache folder |
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
    """Put `data` at `path` so that after a crash the file is the old one or the new one, whole.

    Args:
        path: the file; on a disk its folder must exist.
        data: all its bytes.
        sync: put it on the disk at once; false only in a folder that is synced as a whole before its rename.

    Raises:
        ResourceError: the disk or quota is full, or there is no such bucket.
        IncompatibleError, TemporaryError: as `remote.remote_errors`.

    """
    if isinstance(path, Path):
        disk.write_atomic(path, data, sync=sync)
    else:
        remote.put(path, data)


def create(path: PurePath, data: bytes) -> bool:
    """Make a file with its content in one step, unless it is there; `data` must be the caller's alone.

    Returns:
        whether it was made.

    """
    return _link(path, data) if isinstance(path, Path) else remote.put_new(path, data)


def _link(path: Path, data: bytes) -> bool:
    """Make a file by a hard link, or where there are none by exclusive creation."""
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
    """Make a file where there are no hard links; False if it is there already."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return False
    with os.fdopen(handle, "wb") as out:
        out.write(data)
    return True


def rename(source: PurePath, target: PurePath) -> None:
    """Let a file take the place of another; on an object store both are there for a moment."""
    if isinstance(source, Path) and isinstance(target, Path):
        disk.rename(source, target)
    else:
        remote.put(target, remote.read(source))
        remote.remove(source)


def read_bytes(path: PurePath) -> bytes:
    """Read a whole file; raises FileNotFoundError."""
    return disk.read_bytes(path) if isinstance(path, Path) else remote.read(path)


def read_cached(path: PurePath) -> bytes:
    """Read a whole file; a copy of an object on this machine will do while the object is the same.

    Raises:
        FileNotFoundError: it is not there.

    """
    return disk.read_bytes(path) if isinstance(path, Path) else remote_cache.read(path)


def size_of(path: PurePath | str) -> int:
    """Return the size of a file in bytes; -1 if it is not there. A string is a path on the disk."""
    return disk.size_of(path) if isinstance(path, str | Path) else remote.size(path)


def digest_file(path: PurePath) -> str:
    """Return the xxh3-128 of a file's bytes in hex: for finding changed bytes, not against malice."""
    if isinstance(path, Path):
        return disk.digest_file(path)
    return xxhash.xxh3_128_hexdigest(remote.read(path))


def is_there(folder: PurePath, sealed_by: str) -> bool:
    """Tell whether an artifact is there, be it damaged.

    Args:
        folder: where it would lie; on a disk it appears under this name by rename.
        sealed_by: the object of it that was put last.

    """
    return folder.exists() if isinstance(folder, Path) else remote.size(folder / sealed_by) >= 0


def names(folder: PurePath) -> list[str]:
    """Return what lies in a folder, nothing if there is none; an object store may lag behind."""
    if not isinstance(folder, Path):
        return remote.names(folder)
    return [path.name for path in folder.iterdir()] if folder.is_dir() else []


def bytes_below(path: PurePath) -> int:
    """Return the bytes of a file, or of all files in a folder."""
    return disk.bytes_below(path) if isinstance(path, Path) else remote.bytes_below(path)


def remove(path: PurePath) -> None:
    """Remove a file, or on a disk a whole folder; nothing there is fine."""
    if isinstance(path, Path):
        disk.remove(path)
    else:
        remote.remove(path)


def discard(folder: PurePath) -> None:
    """Remove a folder that nobody needs, as far as that can be done."""
    if isinstance(folder, Path):
        shutil.rmtree(folder, ignore_errors=True)
    else:
        with suppress(SparseRMError):
            remote.remove_below(folder)


def make_folder(folder: PurePath) -> None:
    """Make `folder` and its parents and sync the names; object stores have none."""
    if isinstance(folder, Path):
        disk.make_folder(folder)


def sync_folder(folder: PurePath) -> None:
    """Put the names in `folder` on the disk, so that a rename outlives a power loss."""
    if isinstance(folder, Path):
        disk.sync_folder(folder)


def part_name(final: PurePath) -> Path:
    """Return a temporary name on this machine that names this process and that no other thread takes."""
    if isinstance(final, Path):
        return disk.part_name(final)
    disk.make_folder(parts_folder())
    return disk.part_name(parts_folder() / final.name)


def parts_folder() -> Path:
    """Return where files wait that are to be put on an object store."""
    return cache_folder() / "parts"


def free_bytes(folder: PurePath) -> int | None:
    """Return the bytes free where `folder` is or will be; None on an object store, which has no end."""
    return disk.free_bytes(folder) if isinstance(folder, Path) else None


def absolute(folder: PurePath) -> PurePath:
    """Return a name that means the same in other working directories."""
    return folder.resolve() if isinstance(folder, Path) else folder


def for_each(folder: PurePath, act: Callable[[T], U], items: Sequence[T]) -> list[U]:
    """Do something for every item: in turn on a disk, many at a time where each takes a round trip."""
    return [act(item) for item in items] if isinstance(folder, Path) else remote.side_by_side(act, items)
