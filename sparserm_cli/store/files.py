"""Whole artifacts on disk: folders and files that appear by rename, our own JSON, and what a crash left.

The face of `disk` and `faults` for the other rooms. Temporary names end in `.part`; `sweep` removes those of
dead processes at the start of a run.
"""

import glob
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import xxhash

from sparserm_cli.errors import CorruptStoreError
from sparserm_cli.store.disk import (
    digest_file,
    disk_errors,
    free_bytes,
    make_folder,
    part_name,
    probe_writable,
    read_bytes,
    remove,
    rename,
    sha256_file,
    size_of,
    sync_folder,
    sync_tree,
    write_atomic,
)
from sparserm_cli.store.faults import fault_point, operation
from sparserm_cli.store.process import token_is_dead

__all__ = [
    "building_file",
    "building_folder",
    "canonical_json",
    "digest_file",
    "disk_errors",
    "fault_point",
    "free_bytes",
    "json_object",
    "make_folder",
    "operation",
    "probe_writable",
    "read_bytes",
    "read_json",
    "read_sealed",
    "remove",
    "remove_folder",
    "replace_folder",
    "sha256_file",
    "size_of",
    "sweep",
    "sync_folder",
    "write_atomic",
    "write_json_atomic",
    "write_sealed",
]

OLD = ".old"
SEAL = "seal"
_ENDINGS = (".part", ".old", ".partial")
_LEFTOVER = re.compile(
    r"(?P<final>.+)\.(?:(?P<process>\d+-[^.]+)\.\d+\.(?P<kind>part|old)|[0-9a-f]{32}\.partial)"
)  # ours, or what zarr's own LocalStore leaves; no other file of the user is ever touched


def canonical_json(value: Any) -> bytes:
    """Return the one spelling of a JSON value that digests are taken of: sorted keys, ASCII, no spaces.

    Raises:
        ValueError: a number is NaN or infinite.

    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def write_json_atomic(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object as `write_atomic` does, two spaces deep, keys in the order given.

    Raises:
        ValueError: a number is NaN or infinite.
        ResourceError: as `write_atomic`.

    """
    write_atomic(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode("ascii"))


def read_json(path: Path, hint: str = "remove it and run the stage again") -> dict[str, Any]:
    """Read one of our own JSON files strictly.

    Args:
        path: the file.
        hint: what the user should run when it cannot be read.

    Raises:
        CorruptStoreError: it is missing, cut, not UTF-8, no object, has a key twice or a NaN.

    """
    try:
        data = read_bytes(path)
    except (FileNotFoundError, NotADirectoryError):
        raise CorruptStoreError(str(path), "a JSON object", "no file", hint) from None
    return json_object(data, str(path), hint)


def json_object(data: bytes, where: str, hint: str) -> dict[str, Any]:
    """Return the JSON object that `data` spells; raises CorruptStoreError as `read_json`."""
    try:
        text = data.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        found = f"bytes that are not UTF-8 at offset {error.start}"
        raise CorruptStoreError(where, "a JSON object", found, hint) from None
    except RecursionError:
        raise CorruptStoreError(where, "a JSON object", "nesting without end", hint) from None
    except ValueError as error:
        raise CorruptStoreError(where, "a JSON object", f"broken JSON ({error})", hint) from None
    if not isinstance(value, dict):
        raise CorruptStoreError(where, "a JSON object", f"a {type(value).__name__}", hint)
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object, refusing a key that stands twice."""
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key stands twice")
    return value


def _no_constant(name: str) -> None:
    """Refuse NaN and Infinity, which are no JSON."""
    raise ValueError(f"{name} is no JSON number")


def write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object with a `seal`: the xxh3-128 of the rest, so that any changed byte is noticed.

    Raises:
        ValueError: a number is NaN or infinite.
        ResourceError: as `write_atomic`.

    """
    sealed = {**value, SEAL: _seal(value)}
    fields = (f"{json.dumps(name)}: {json.dumps(one, allow_nan=False)}" for name, one in sealed.items())
    write_atomic(path, ("{\n" + ",\n".join(fields) + "\n}\n").encode("ascii"))


def read_sealed(path: Path, hint: str = "remove it and run the stage again") -> dict[str, Any]:
    """Read what `write_sealed` wrote, without the seal.

    Raises:
        CorruptStoreError: as `read_json`, or the seal is not that of the rest.

    """
    value = read_json(path, hint)
    found, expected = value.pop(SEAL, None), _seal(value)
    if found != expected:
        raise CorruptStoreError(str(path), f"seal {expected}", f"{found}", hint)
    return value


def _seal(value: Mapping[str, Any]) -> str:
    """Return the digest of a JSON value."""
    return xxhash.xxh3_128(canonical_json(value)).hexdigest()


@contextmanager
def building_file(final: Path, needed: int = 0) -> Iterator[Path]:
    """Yield a temporary path for another library to write; at the end sync it and rename it to `final`.

    What dead processes have left of `final` goes first.

    Args:
        final: where the file shall appear.
        needed: the bytes it will take, for the message of a full disk; 0 if not known.

    Raises:
        ResourceError: as `write_atomic`.

    """
    part = part_name(final)
    with disk_errors(final, needed):
        for path in final.parent.glob(f"{glob.escape(final.name)}.*.part"):
            leftover = _LEFTOVER.fullmatch(path.name)
            if leftover is not None and token_is_dead(leftover["process"] or ""):
                remove(path)
        try:
            yield part
            operation("fsync")
            with part.open("rb") as file:
                os.fsync(file.fileno())
            rename(part, final)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        sync_folder(final.parent)


@contextmanager
def building_folder(final: Path, needed: int = 0) -> Iterator[Path]:
    """Yield a new temporary folder; at the end sync all of it and let it replace `final` by rename.

    Raises:
        ResourceError: as `write_atomic`.

    """
    part = part_name(final)
    make_folder(final.parent)
    with disk_errors(final, needed):
        try:
            operation("mkdir")
            part.mkdir()
            yield part
            replace_folder(part, final)
        except BaseException:
            _discard(part)
            raise


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
    sync_tree(built)
    old = part_name(final).with_suffix(OLD)
    if final.exists():
        rename(final, old)
        fault_point("folder-old-moved")
    rename(built, final)
    sync_folder(final.parent)
    if old.exists():
        remove(old)


def remove_folder(folder: Path) -> None:
    """Remove a whole artifact so that a crash never leaves a part of it under its name."""
    if folder.exists():
        leftover = part_name(folder)
        rename(folder, leftover)
        sync_folder(folder.parent)
        remove(leftover)


def sweep(root: Path, *, everything: bool) -> list[Path]:
    """Remove temporary files and folders below `root` that dead processes left, and undo half a replacement.

    Args:
        root: the run directory, or any folder.
        everything: remove those of live or unknown processes too; only for the holder of the run lock.

    Returns:
        what was removed or put back.

    """
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
                remove(here / name)
            swept.append(here / name)
            if name in folders:
                folders.remove(name)
    return swept


def _put_back(old: Path, final: Path) -> None:
    """Finish or undo the replacement that left `old`: it goes if the new folder is there, else back."""
    if final.exists():
        remove(old)
    else:
        rename(old, final)
