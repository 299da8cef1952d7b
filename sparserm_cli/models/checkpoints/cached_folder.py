"""How a folder in the cache becomes whole at once or not at all."""

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
"""Written last into a cached folder: the origin, and size, time and digests of each file."""

SAMPLES, SAMPLE_BYTES = 64, 4096
"""Places at equal distances of which a sampled digest is made, and the bytes read at each."""


def is_whole(folder: Path, origin: Mapping[str, Any]) -> bool:
    """Tell whether `folder` was built from `origin` and every file is as it was then.

    A file must have its recorded size and its sampled digest; one with another time of change is read as a
    whole, since it may have been copied as well as written to.
    """
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        same = all(_is_same(folder / name, fact) for name, fact in record["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return bool(record.get("origin") == dict(origin) and same)


def _is_same(path: Path, fact: Mapping[str, Any]) -> bool:
    """Tell whether a file is the one that was recorded."""
    file_stat = path.stat()
    if file_stat.st_size != fact["bytes"] or _sampled(path) != fact["sampled"]:
        return False
    return file_stat.st_mtime_ns == fact["changed_ns"] or _digest(path) == fact["digest"]


def _fact(path: Path) -> dict[str, Any]:
    """Return what is recorded of a file."""
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
    """Return the digest of a file's beginning, end, and places between."""
    import xxhash

    digest, last = xxhash.xxh3_128(), max(path.stat().st_size - SAMPLE_BYTES, 0)
    with path.open("rb") as file:
        for number in range(SAMPLES + 1):
            file.seek(last * number // SAMPLES)
            digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()


@contextlib.contextmanager
def building(target: Path, origin: Mapping[str, Any]) -> Iterator[Path]:
    """Give a temporary folder to fill, and rename it onto `target` when the block ends well.

    Two processes that build the same target both end well: the second finds the first one's folder whole
    and drops its own. A folder that is not whole is replaced. A killed process leaves a folder whose name
    holds machine and process id; the next build there removes it.
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
        # Earlier releases compare sizes alone, and would otherwise build the folder again.
        sizes = {name: fact["bytes"] for name, fact in facts.items()}
        record = {"origin": dict(origin), "bytes": sizes, "files": facts}
        _write_synced(temporary / RECORD, json.dumps(record, indent=1))
        if not is_whole(target, origin):
            _replace(temporary, target, origin)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replace(temporary: Path, target: Path, origin: Mapping[str, Any]) -> None:
    """Move a finished folder into place; a whole folder that another process put there stays."""
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
    """Sync all files beside `path`, then write and sync `path`: where it is, everything is."""
    for other in path.parent.iterdir():
        with other.open("rb+") as file:
            os.fsync(file.fileno())
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sweep(parent: Path) -> None:
    """Remove what killed builds left: folders named after a process that is no longer there."""
    mine = f".building-{platform.node()}-"  # of another machine's processes nothing is known here
    for leftover in (path for path in parent.iterdir() if path.name.startswith(mine)):
        owner = leftover.name.removeprefix(mine).split("-")[0]
        if owner.isdecimal() and not _alive(int(owner)):
            shutil.rmtree(leftover, ignore_errors=True)


def _alive(process: int) -> bool:
    if os.name == "nt":
        return True  # there, the call below would end the process
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
