"""A location on a local disk, as `storage.Storage` describes it."""

import errno
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from sparserm_cli.store.io import local_disk as disk
from sparserm_cli.store.io.fault_points import fault_point, operation

T = TypeVar("T")
U = TypeVar("U")

_OLD = ".old"
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


class LocalStorage:
    """A file or folder of this machine.

    Args:
        path: its path.

    """

    __slots__ = ("path",)

    def __init__(self, path: Path) -> None:
        self.path = path

    def write_atomic(self, data: bytes | memoryview, *, sync: bool = True) -> None:
        """Write a temporary file, sync it and rename it; raises ResourceError."""
        disk.write_atomic(self.path, data, sync=sync)

    def create(self, data: bytes) -> bool:
        """Create the file by a hard link, or by exclusive creation where there are no hard links."""
        part = disk.part_name(self.path)
        try:
            operation("write")
            part.write_bytes(data)
            operation("link")
            self.path.hardlink_to(part)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            return self._create_exclusively(data)
        finally:
            part.unlink(missing_ok=True)
        return True

    def _create_exclusively(self, data: bytes) -> bool:
        """Create the file exclusively; return False if it exists."""
        try:
            handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            return False
        with os.fdopen(handle, "wb") as out:
            out.write(data)
        return True

    def rename(self, name: str) -> None:
        """Rename the file atomically; an existing file of that name is replaced."""
        disk.rename(self.path, self.path.with_name(name))

    def read_bytes(self) -> bytes:
        """Read the whole file; raises FileNotFoundError, and CorruptStoreError for what is no file."""
        return disk.read_bytes(self.path)

    def read_cached(self) -> bytes:
        """Read the whole file, which needs no copy."""
        return disk.read_bytes(self.path)

    def size(self, below: str = "") -> int:
        """Return the size of the file in bytes, or -1 if it is absent, by one stat call."""
        return disk.size_of(f"{self.path}/{below}" if below else self.path)

    def digest(self) -> str:
        """Return the xxh3-128 of the file in hexadecimal."""
        return disk.digest_file(self.path)

    def is_link(self) -> bool:
        """Return whether this is a symbolic link."""
        return self.path.is_symlink()

    def is_there(self, sealed_by: str) -> bool:  # a folder appears as a whole
        """Return whether the folder exists."""
        return self.path.exists()

    def names(self) -> list[str]:
        """Return the names in the folder, none if it is absent."""
        return [path.name for path in self.path.iterdir()] if self.path.is_dir() else []

    def bytes_below(self) -> int:
        """Return the size in bytes of the file, or of all files in the folder together."""
        return disk.bytes_below(self.path)

    def free_bytes(self) -> int:
        """Return the free bytes on the file system."""
        return disk.free_bytes(self.path)

    def absolute(self) -> Path:
        """Return the resolved path."""
        return self.path.resolve()

    def make_folder(self) -> None:
        """Create the folder and its parents and sync them; raises ResourceError."""
        disk.make_folder(self.path)

    def sync_folder(self) -> None:
        """Sync the entries of the folder."""
        disk.sync_folder(self.path)

    def log_folder(self) -> Path:
        """Return the run directory itself."""
        return self.path

    def parts_folder(self) -> Path:
        """Return the folder itself."""
        return self.path

    def part_name(self) -> Path:
        """Return a temporary path beside this one."""
        return disk.part_name(self.path)

    def put_file(self, part: Path) -> None:
        """Sync the finished file and rename it to its final path."""
        disk.sync_file(part)
        disk.rename(part, self.path)
        disk.sync_folder(self.path.parent)

    def put_folder(self, part: Path, sealed_by: str = "") -> None:
        """Sync the finished folder and replace this one by it.

        Two renames are needed where there is one already. A crash between them leaves `<name>.*.old`, which
        `sweep` renames back, so that either the old or the new folder is complete.
        """
        disk.sync_tree(part)
        old = disk.part_name(self.path).with_suffix(_OLD)
        if self.path.exists():
            disk.rename(self.path, old)
            fault_point("folder-old-moved")
        disk.rename(part, self.path)
        disk.sync_folder(self.path.parent)
        if old.exists():
            disk.remove(old)

    def remove(self) -> None:
        """Remove the file or the whole folder."""
        disk.remove(self.path)

    def remove_artifact(self, *seals: str) -> None:
        """Move the folder aside by one rename and remove it; raises ResourceError."""
        if self.path.exists():
            leftover = disk.part_name(self.path)
            with disk.disk_errors(self.path, 0):
                disk.rename(self.path, leftover)
                disk.sync_folder(self.path.parent)
                disk.remove(leftover)

    def discard(self) -> None:
        """Remove the folder as far as possible."""
        shutil.rmtree(self.path, ignore_errors=True)

    def for_each(self, act: Callable[[T], U], items: Sequence[T]) -> list[U]:
        """Apply `act` to every item in turn."""
        return [act(item) for item in items]
