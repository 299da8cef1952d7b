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
from sparserm_cli.store.io.fault_points import operation
from sparserm_cli.store.io.local_disk import disk_errors
from sparserm_cli.store.io.process_id import token_is_dead
from sparserm_cli.store.io.storage import storage_of

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
    storage = storage_of(final)
    part = storage.part_name()
    with disk_errors(final, needed):
        remove_leftovers(final)
        try:
            yield part
            storage.put_file(part)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


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
    storage = storage_of(final)
    part = storage.part_name()
    storage_of(final.parent).make_folder()
    with disk_errors(final, needed):
        try:
            remove_leftovers(final)
            operation("mkdir")
            part.mkdir()
            yield part
            storage.put_folder(part, sealed_by)
        except BaseException:
            _discard(part)
            raise


def _discard(part: Path) -> None:
    """Remove an unfinished folder, repeatedly, since zarr's threads may still be writing into it."""
    for _ in range(5):
        shutil.rmtree(part, ignore_errors=True)
        time.sleep(0.02)


def sweep(root: PurePath, *, everything: bool) -> list[Path]:
    """Remove temporary files and folders that dead processes left, and undo unfinished replacements.

    Args:
        root: the run directory, or any folder; for an object store, the local folder of pending uploads
            is swept instead.
        everything: remove those of live or unknown processes too; only the owner of the run lock may do so.

    Returns:
        the paths that were removed or renamed back.

    """
    swept: list[Path] = []
    top = storage_of(root).parts_folder()
    everything = everything and top == root  # other runs have pending uploads in a folder elsewhere
    for folder, folders, files in os.walk(top):
        here = Path(folder)
        for name in sorted(name for name in folders + files if name.endswith(_ENDINGS)):
            leftover = _LEFTOVER.fullmatch(name)
            if leftover is None or not (everything or token_is_dead(leftover["process"] or "")):
                continue
            _undo(here / name, leftover)
            swept.append(here / name)
            if name in folders:
                folders.remove(name)
    return swept


def remove_leftovers(final: PurePath) -> None:
    """Remove what dead processes left while they wrote `final`, and undo their unfinished replacement."""
    for path in storage_of(final).part_name().parent.glob(f"{glob.escape(final.name)}.*"):
        leftover = _LEFTOVER.fullmatch(path.name)
        ours = leftover is not None and leftover["final"] == final.name
        if leftover is not None and ours and token_is_dead(leftover["process"] or ""):
            with disk_errors(final, 0):
                _undo(path, leftover)


def _undo(path: Path, leftover: re.Match[str]) -> None:
    """Remove a temporary path; an old folder is renamed back unless the new one exists."""
    final = path.with_name(leftover["final"])
    if leftover["kind"] == "old" and not final.exists():
        disk.rename(path, final)
    else:
        disk.remove(path)
