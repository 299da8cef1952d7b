"""Atomic files and folders: they appear under their name only when they are complete.

On a disk they appear by rename. Temporary names end in `.part`, and `sweep` removes those of dead processes
at the start of a run. For an object store they are written on this machine and uploaded file by file. The
file that seals the others is uploaded last: readers take the artifact as absent until it is there.
"""

import glob
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath

from sparserm_cli.store.io import local_disk as disk
from sparserm_cli.store.io import object_store as remote
from sparserm_cli.store.io import storage as places
from sparserm_cli.store.io.fault_points import fault_point, operation
from sparserm_cli.store.io.local_disk import disk_errors
from sparserm_cli.store.io.process_id import token_is_dead

OLD = ".old"
_ENDINGS = (".part", ".old", ".partial")
_LEFTOVER = re.compile(
    r"(?P<final>.+)\.(?:(?P<process>\d+-[^.]+)\.\d+\.(?P<kind>part|old)|[0-9a-f]{32}\.partial)"
)  # Names made here or by zarr's LocalStore; no other file of the user is ever touched.


@contextmanager
def atomic_file(final: PurePath, needed: int = 0) -> Iterator[Path]:
    """Yield a temporary path to write to; at the end sync it and rename it to `final`.

    Temporary files that dead processes left beside `final` are removed first.

    Args:
        final: the path at which the file appears.
        needed: its expected size in bytes, for the error about a full disk; 0 if it is not known.

    Raises:
        ResourceError: as `write_atomic`.

    """
    part = places.part_name(final)
    with disk_errors(final, needed):
        for path in part.parent.glob(f"{glob.escape(final.name)}.*.part"):
            leftover = _LEFTOVER.fullmatch(path.name)
            if leftover is not None and token_is_dead(leftover["process"] or ""):
                disk.remove(path)
        try:
            yield part
            _finish_file(part, final)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def _finish_file(part: Path, final: PurePath) -> None:
    """Move a finished file to its final path."""
    if not isinstance(final, Path):
        remote.put(final, part.read_bytes())
        part.unlink()
        return
    operation("fsync")
    with part.open("rb") as file:
        os.fsync(file.fileno())
    disk.rename(part, final)
    disk.sync_folder(final.parent)


@contextmanager
def atomic_folder(final: PurePath, needed: int = 0, *, sealed_by: str = "") -> Iterator[Path]:
    """Yield a new temporary folder; at the end sync all of it and replace `final` by it.

    Args:
        final: the path at which the folder appears.
        needed: its expected size in bytes, for the error about a full disk; 0 if it is not known.
        sealed_by: the file in the folder that proves the others complete; an object store receives it
            last, and a local disk does not need it.

    Raises:
        ResourceError: as `write_atomic`.

    """
    part = places.part_name(final)
    places.make_folder(final.parent)
    with disk_errors(final, needed):
        try:
            operation("mkdir")
            part.mkdir()
            yield part
            if isinstance(final, Path):
                replace_folder(part, final)
            else:
                _put_folder(part, final, sealed_by)
        except BaseException:
            _discard(part)
            raise


def _put_folder(built: Path, final: PurePath, sealed_by: str) -> None:
    """Upload a folder to an object store; until the last file is there, readers see no artifact."""
    remote.remove(final / sealed_by)
    files = [path.relative_to(built) for path in built.rglob("*") if path.is_file()]
    rest = [path for path in files if path != Path(sealed_by)]
    remote.side_by_side(lambda path: remote.put(final / path, (built / path).read_bytes()), rest)
    fault_point("folder-put")
    remote.put(final / sealed_by, (built / sealed_by).read_bytes())
    _discard(built)


def _discard(part: Path) -> None:
    """Remove an unfinished folder, repeatedly, since zarr's threads may still be writing into it."""
    for _ in range(5):
        shutil.rmtree(part, ignore_errors=True)
        time.sleep(0.02)


def replace_folder(built: Path, final: Path) -> None:
    """Replace the folder `final` by the folder `built`.

    Two renames are needed where `final` exists. A crash between them leaves `<final>.*.old`, which `sweep`
    renames back, so that either the old or the new folder is complete.
    """
    disk.sync_tree(built)
    old = disk.part_name(final).with_suffix(OLD)
    if final.exists():
        disk.rename(final, old)
        fault_point("folder-old-moved")
    disk.rename(built, final)
    disk.sync_folder(final.parent)
    if old.exists():
        disk.remove(old)


def remove_folder(folder: PurePath, *seals: str) -> None:
    """Remove an artifact in an order in which a crash never leaves a part that looks complete.

    Args:
        folder: the folder or prefix of the artifact.
        seals: the files that prove others complete, in the order in which an object store removes them.

    """
    if not isinstance(folder, Path):
        for seal in seals:
            remote.remove(folder / seal)
        remote.remove_below(folder)
    elif folder.exists():
        leftover = disk.part_name(folder)
        disk.rename(folder, leftover)
        disk.sync_folder(folder.parent)
        disk.remove(leftover)


def sweep(root: PurePath, *, everything: bool) -> list[Path]:
    """Remove temporary files and folders that dead processes left, and undo unfinished replacements.

    Args:
        root: the run directory, or any folder; for an object store, the local folder of pending uploads
            is swept instead.
        everything: remove those of live or unknown processes too; only the owner of the run lock may do so.

    Returns:
        the paths that were removed or renamed back.

    """
    if not isinstance(root, Path):
        root, everything = places.parts_folder(), False  # other runs have pending uploads there too
    swept = []
    for folder, folders, files in os.walk(root):
        here = Path(folder)
        for name in sorted(name for name in folders + files if name.endswith(_ENDINGS)):
            leftover = _LEFTOVER.fullmatch(name)
            if leftover is None or not (everything or token_is_dead(leftover["process"] or "")):
                continue
            if leftover["kind"] == "old":
                _put_back(here / name, here / leftover["final"])
            else:
                disk.remove(here / name)
            swept.append(here / name)
            if name in folders:
                folders.remove(name)
    return swept


def _put_back(old: Path, final: Path) -> None:
    """Remove `old` if the new folder exists; otherwise rename it back to `final`."""
    if final.exists():
        disk.remove(old)
    else:
        disk.rename(old, final)
