"""Build folders of the cache, each of which appears whole or not at all."""

import contextlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sparserm_cli.store.io.local_disk import disk_errors

RECORD = "sparserm.json"
"""Name of the file written last into a cached folder, with its origin and the facts of each file."""

SAMPLES, SAMPLE_BYTES = 64, 4096
"""Number of evenly spaced places that a sampled digest covers, and the number of bytes read at each."""


def is_whole(folder: Path, origin: Mapping[str, Any]) -> bool:
    """Return whether `folder` was built from `origin` and no file has changed since.

    A file must have its recorded size and sampled digest. A file with another modification time is read as a
    whole, since it may only have been copied.
    """
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        same = all(_is_same(folder / name, fact) for name, fact in record["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return bool(record.get("origin") == dict(origin) and same)


def _is_same(path: Path, fact: Mapping[str, Any]) -> bool:
    """Return whether a file is the one that was recorded."""
    file_stat = path.stat()
    if file_stat.st_size != fact["bytes"] or _sampled(path) != fact["sampled"]:
        return False
    return file_stat.st_mtime_ns == fact["changed_ns"] or _digest(path) == fact["digest"]


def _fact(path: Path) -> dict[str, Any]:
    """Return the facts that are recorded about a file."""
    file_stat = path.stat()
    facts = {"bytes": file_stat.st_size, "changed_ns": file_stat.st_mtime_ns}
    return facts | {"digest": _digest(path), "sampled": _sampled(path)}


def _digest(path: Path) -> str:
    """Return the digest of a whole file."""
    import xxhash

    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _sampled(path: Path) -> str:
    """Return the digest of a file's beginning, its end, and places between them."""
    import xxhash

    digest, last = xxhash.xxh3_128(), max(path.stat().st_size - SAMPLE_BYTES, 0)
    with path.open("rb") as file:
        for number in range(SAMPLES + 1):
            file.seek(last * number // SAMPLES)
            digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()


@contextlib.contextmanager
def building(target: Path, origin: Mapping[str, Any]) -> Iterator[Path]:
    """Yield a temporary folder to fill, and rename it to `target` when the block ends without an error.

    Two processes that build the same target both succeed: the second one finds the folder of the first whole
    and drops its own. A folder that is not whole is replaced. A killed process leaves a folder whose name
    holds the machine and the process id; the next build there removes it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    _sweep(target.parent)
    temporary = Path(
        tempfile.mkdtemp(prefix=f".building-{platform.node()}-{os.getpid()}-", dir=target.parent)
    )
    try:
        with disk_errors(target, 0):
            yield temporary
        facts = {path.name: _fact(path) for path in sorted(temporary.iterdir())}
        # Earlier releases compare sizes alone and would otherwise build the folder again.
        sizes = {name: fact["bytes"] for name, fact in facts.items()}
        record = {"origin": dict(origin), "bytes": sizes, "files": facts}
        _write_synced(temporary / RECORD, json.dumps(record, indent=1))
        if not is_whole(target, origin):
            _replace(temporary, target, origin)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replace(temporary: Path, target: Path, origin: Mapping[str, Any]) -> None:
    """Move a finished folder into place, unless another process has put a whole folder there."""
    if target.exists():
        spoilt = temporary.with_name(temporary.name + "-spoilt")
        target.rename(spoilt)
        shutil.rmtree(spoilt, ignore_errors=True)
    try:
        temporary.rename(target)
    except OSError:
        if not is_whole(target, origin):
            raise


def _write_synced(path: Path, text: str) -> None:
    """Sync all files beside `path`, then write and sync `path`, so that it proves that the others exist."""
    for other in path.parent.iterdir():
        with other.open("rb+") as file:
            os.fsync(file.fileno())
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sweep(parent: Path) -> None:
    """Remove folders of killed builds, whose names contain a process that no longer runs."""
    mine = f".building-{platform.node()}-"  # processes of another machine cannot be checked from here
    for leftover in (path for path in parent.iterdir() if path.name.startswith(mine)):
        owner = leftover.name.removeprefix(mine).split("-")[0]
        if owner.isdecimal() and not _alive(int(owner)):
            shutil.rmtree(leftover, ignore_errors=True)


def _alive(process: int) -> bool:
    if os.name == "nt":
        return True  # on that system the call below would end the process
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
