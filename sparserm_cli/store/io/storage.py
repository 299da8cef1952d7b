"""The operations of the store on one location, the same on a local disk and on an object store.

| | `LocalStorage` | `ObjectStorage` |
|---|---|---|
| a file appears | by rename, after a sync | by one upload |
| a file appears only if it was absent | by a hard link | by a conditional upload |
| temporary files lie | beside the file | in the cache folder of this machine |
"""

from collections.abc import Callable, Sequence
from pathlib import Path, PurePath
from typing import Protocol, TypeVar, runtime_checkable

from sparserm_cli.store.io.local_storage import LocalStorage
from sparserm_cli.store.io.object_store import ObjectStorage

T = TypeVar("T")
U = TypeVar("U")


@runtime_checkable
class Storage(Protocol):
    """One location: a file, a folder or a prefix, whether or not it exists.

    The errors of an object store are `TemporaryError` and `IncompatibleError`, as `remote_errors` states.
    """

    def write_atomic(self, data: bytes | memoryview, *, sync: bool = True) -> None:
        """Write the file; after a crash it has its complete old or new content.

        Args:
            data: the complete content; on a disk the file's folder must exist.
            sync: sync at once; false only in a folder that is synced as a whole before its rename.

        Raises:
            ResourceError: the disk or quota is full, or the bucket does not exist.

        """

    def create(self, data: bytes) -> bool:
        """Create the file with `data`, unique to the caller, unless it exists; return whether it did."""

    def rename(self, name: str) -> None:
        """Rename the file within its folder; on an object store both names exist for a moment."""

    def read_bytes(self) -> bytes:
        """Read the whole file; raises FileNotFoundError."""

    def read_cached(self) -> bytes:
        """Read the whole file, or this machine's copy of an unchanged object; raises FileNotFoundError."""

    def size(self, below: str = "") -> int:
        """Return the size in bytes of the file, or of the one at the relative path `below`; -1 if absent."""

    def digest(self) -> str:
        """Return the xxh3-128 of the file in hexadecimal; it detects damage, not deliberate forgery."""

    def is_link(self) -> bool:
        """Return whether this is a symbolic link."""

    def is_there(self, sealed_by: str) -> bool:
        """Return whether an artifact exists, even if damaged, given its file that is uploaded last."""

    def names(self) -> list[str]:
        """Return the names in the folder, none if it is absent; a listing of objects may lag behind."""

    def bytes_below(self) -> int:
        """Return the size in bytes of the file, or of all files in the folder together."""

    def free_bytes(self) -> int | None:
        """Return the free bytes where the folder lies or will lie; None if there is no limit."""

    def absolute(self) -> PurePath:
        """Return the path, made independent of the working directory."""

    def make_folder(self) -> None:
        """Create the folder and its parents and sync them; object stores have no folders."""

    def sync_folder(self) -> None:
        """Sync the entries of the folder, so that a rename survives a power loss."""

    def log_folder(self) -> Path:
        """Return the folder of this machine for a run's files that grow, which no object can."""

    def parts_folder(self) -> Path:
        """Return the folder of this machine that has the temporary files of everything in the folder."""

    def part_name(self) -> Path:
        """Return a temporary path of this machine, unique to this call, whose name contains the process."""

    def put_file(self, part: Path) -> None:
        """Let the finished file at `part` appear here and remove `part`."""

    def put_folder(self, part: Path, sealed_by: str) -> None:
        """Let the finished folder at `part` appear here; an object store receives `sealed_by` last."""

    def remove(self) -> None:
        """Remove the file, or on a disk the whole folder; an absent one is no error."""

    def remove_artifact(self, *seals: str) -> None:
        """Remove the folder so that a crash leaves nothing that looks complete.

        Args:
            seals: the files that prove others complete, in the order in which an object store removes them.

        """

    def discard(self) -> None:
        """Remove a folder that is no longer needed; failures are ignored."""

    def for_each(self, act: Callable[[T], U], items: Sequence[T]) -> list[U]:
        """Apply `act`, which works here, to every item; on an object store concurrently."""


def storage_of(location: PurePath) -> Storage:
    """Return the storage of a location, by its type, which `parse_location` decides."""
    return LocalStorage(location) if isinstance(location, Path) else ObjectStorage(location)
