"""Whole artifacts: files and folders that appear under their name once finished, and what a crash left.

On a disk they appear by rename; temporary names end in `.part`, and `sweep` removes those of dead processes
at the start of a run. For an object store they are made on this machine and put there file by file, last the
one that seals the rest: without it there is nothing.
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
)  # ours, or what zarr's own LocalStore leaves; no other file of the user is ever touched


@contextmanager
def atomic_file(final: PurePath, needed: int = 0) -> Iterator[Path]:
    """Yield a temporary path for another library to write; at the end sync it and let it appear at `final`.

    What dead processes have left of `final` goes first.

    Args:
        final: where the file shall appear.
        needed: the bytes it will take, for the message of a full disk; 0 if not known.

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
    """Let a finished file appear."""
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
    """Yield a new temporary folder; at the end sync all of it and let it replace `final`.

    Args:
        final: where the folder shall appear.
        needed: the bytes it will take, for the message of a full disk; 0 if not known.
        sealed_by: the file in it that vouches for the others, which an object store, and only that, needs:
            it is put last.

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
    """Put a folder's files on an object store; until the last is there, neither the old nor the new is."""
    remote.remove(final / sealed_by)
    files = [path.relative_to(built) for path in built.rglob("*") if path.is_file()]
    rest = [path for path in files if path != Path(sealed_by)]
    remote.side_by_side(lambda path: remote.put(final / path, (built / path).read_bytes()), rest)
    fault_point("folder-put")
    remote.put(final / sealed_by, (built / sealed_by).read_bytes())
    _discard(built)


def _discard(part: Path) -> None:
    """Remove a folder that could not be finished; zarr's threads may write into it for a moment longer."""
    for _ in range(5):
        shutil.rmtree(part, ignore_errors=True)
        time.sleep(0.02)


def replace_folder(built: Path, final: Path) -> None:
    """Let the folder `built` take the place of `final`.

    Two renames are needed where `final` exists; a crash between them leaves `<final>.*.old`, which `sweep`
    puts back, so that the old or the new folder is there, never half of one.
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
    """Remove a whole artifact so that a crash never leaves what could be taken for it.

    Args:
        folder: the artifact.
        seals: the files that vouch for others, in the order in which an object store has to lose them.

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
    """Remove temporary files and folders below `root` that dead processes left, and undo half a replacement.

    Args:
        root: the run directory, or any folder; for one on an object store, what waits on this machine.
        everything: remove those of live or unknown processes too; only for the holder of the run lock.

    Returns:
        what was removed or put back.

    """
    if not isinstance(root, Path):
        root, everything = places.parts_folder(), False  # other runs' files wait there too
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
    """Finish or undo the replacement that left `old`: it goes if the new folder is there, else back."""
    if final.exists():
        disk.remove(old)
    else:
        disk.rename(old, final)
