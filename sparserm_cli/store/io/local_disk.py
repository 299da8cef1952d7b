"""Durable file operations on a local disk; every one that changes the disk is a fault point.

After a crash a file has its old or its new content, never a part: data are written to `<name>.<process>.part`
in the same folder, synced and renamed, and then the folder is synced. Modification times are never read.
"""

import errno
import hashlib
import itertools
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import TypeVar

import xxhash

from sparserm_cli.errors import ResourceError
from sparserm_cli.files import hash_file, open_file
from sparserm_cli.store.io.fault_points import active, fault_point, operation
from sparserm_cli.store.io.process_id import this_process, token

T = TypeVar("T")

PART = ".part"
_FULL = {errno.ENOSPC: "no space left", errno.EDQUOT: "a used-up quota", errno.EFBIG: "a limit on file size"}
_CLOSED = {
    errno.EROFS: "a read-only file system",
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
}
_SPELLED = re.compile(r"\(os error (?P<number>\d+)\)")
_STALE_TRIES = 5
_serial = itertools.count()


def write_atomic(path: Path, data: bytes | memoryview, *, sync: bool = True) -> None:
    """Write `data` to `path`; after a crash the file has its complete old or new content.

    Args:
        path: the file; its folder must exist.
        data: the complete content.
        sync: sync the file at once; false only in a folder that is synced as a whole before its rename.

    Raises:
        ResourceError: the disk or quota is full, or the folder cannot be written; the error states the size.

    """
    view = memoryview(data).cast("B")
    part = part_name(path)
    with disk_errors(path, view.nbytes):
        try:
            with part.open("wb") as out:
                _write(out.fileno(), view)
                if sync:
                    operation("fsync")
                    os.fsync(out.fileno())
            rename(part, path)
        except OSError:
            part.unlink(missing_ok=True)
            raise
        if sync:
            sync_folder(path.parent)


def _write(handle: int, view: memoryview) -> None:
    """Write all of `view`; if a fault is requested, in two halves with a fault point before each."""
    halves = (view[: len(view) // 2], view[len(view) // 2 :]) if active() else (view,)
    for half in halves:
        operation("write")
        while half.nbytes:
            half = half[os.write(handle, half) :]


def rename(source: Path, target: Path) -> None:
    """Rename within one file system; an existing file at `target` is replaced atomically."""
    operation("rename")
    source.rename(target)


def sync_folder(folder: Path) -> None:
    """Sync the entries of `folder`, so that a rename survives a power loss."""
    operation("fsync")
    if os.name == "nt":
        return  # Windows cannot open a folder.
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_file(path: Path) -> None:
    """Sync a file that another library wrote."""
    operation("fsync")
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_tree(root: Path) -> None:
    """Sync every file and folder below `root`, for files that other libraries wrote."""
    for folder, _, files in os.walk(root):
        for name in files:
            sync_file(Path(folder, name))
        sync_folder(Path(folder))


def make_folder(folder: Path) -> None:
    """Create `folder` and its parents and sync their entries; an existing folder is left unchanged."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    with disk_errors(folder, 0):
        operation("mkdir")
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def remove(path: Path) -> None:
    """Remove a file or a whole folder; an absent path is no error."""
    operation("remove")
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def part_name(final: Path) -> Path:
    """Return a temporary path beside `final`, unique to this call, whose name contains the process."""
    return final.with_name(f"{final.name}.{token(this_process())}.{next(_serial)}{PART}")


def read_bytes(path: Path) -> bytes:
    """Read a whole file; a stale handle of a network file system is retried.

    Raises:
        CorruptStoreError: the path is a folder, a pipe, a device or a loop of links.

    """
    return _retry_stale_handle(lambda: _read(path))


def _read(path: Path) -> bytes:
    with open_file(path) as file:
        return file.read()


def size_of(path: Path | str) -> int:
    """Return the size of a file in bytes, or -1 if it does not exist. The cost is one stat call."""
    try:
        return os.stat(path).st_size  # noqa: PTH116  # a Path would double the cost of 35,000 calls
    except (FileNotFoundError, NotADirectoryError):
        return -1
    except OSError:
        return _retry_stale_handle(Path(path).stat).st_size


def digest_file(path: Path) -> str:
    """Return the xxh3-128 of a file in hexadecimal; it detects damage, not deliberate forgery."""
    return _retry_stale_handle(lambda: hash_file(path, xxhash.xxh3_128)[0])


def sha256_file(path: Path) -> str:
    """Return the sha256 of a file in hexadecimal, which identifies inputs and models."""
    return _retry_stale_handle(lambda: hash_file(path, hashlib.sha256)[0])


def _retry_stale_handle(read: Callable[[], T]) -> T:
    """Call `read`; retry after a pause on ESTALE, which a rename by another host causes."""
    for attempt in range(_STALE_TRIES):
        try:
            fault_point("read")
            return read()
        except OSError as error:
            if error.errno != errno.ESTALE or attempt == _STALE_TRIES - 1:
                raise
            time.sleep(0.05 * 2**attempt)
    raise AssertionError("the loop returns or raises")


def bytes_below(path: Path) -> int:
    """Return the size in bytes of a file, or of all files in a folder together."""
    if path.is_file():
        return path.stat().st_size
    total = 0
    for folder, _, files in os.walk(path):
        total += sum(os.stat(os.path.join(folder, name)).st_size for name in files)  # noqa: PTH116, PTH118
    return total


def free_bytes(folder: Path) -> int:
    """Return the free bytes on the file system of `folder` or of its nearest existing parent."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def probe_writable(folder: Path) -> None:
    """Write, sync and remove a small file in `folder`, which is created if it is absent.

    Raises:
        ResourceError: the folder cannot be created or written.

    """
    make_folder(folder)
    probe = part_name(folder / "probe")
    with disk_errors(folder, 1):
        try:
            with probe.open("wb") as out:
                _write(out.fileno(), memoryview(b"0"))
                os.fsync(out.fileno())
        finally:
            probe.unlink(missing_ok=True)


@contextmanager
def disk_errors(where: PurePath, needed: int) -> Iterator[None]:
    """Turn a full disk, a used-up quota and a folder that cannot be written into ResourceError.

    Args:
        where: the file or folder that was being written.
        needed: its size in bytes; 0 if it is not known.

    """
    try:
        yield
    except Exception as error:
        number = _system_error(error)
        amount = f"{needed:,} bytes" if needed else "room"
        if number in _FULL:
            hint = "free space and run the same command again; what is done is kept"
            raise ResourceError(str(where), f"{amount} on the disk", _FULL[number], hint) from error
        if number in _CLOSED or isinstance(error, (NotADirectoryError, FileExistsError)):
            found = _CLOSED.get(number, "a file where a folder should be")
            raise ResourceError(
                str(where), "a place to write", found, "choose another --run directory"
            ) from error
        raise


def _system_error(error: Exception) -> int:
    """Return the errno of an error, or 0; safetensors states it only in the text of its message."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    match = _SPELLED.search(str(error)) if type(error).__name__ == "SafetensorError" else None
    return int(match["number"]) if match else 0
