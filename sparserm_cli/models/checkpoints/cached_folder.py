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

RECORD = "sparserm.json"
"""Written last into a cached folder: where its contents come from, and the size of every file."""


def is_whole(folder: Path, origin: Mapping[str, Any]) -> bool:
    """Tell whether `folder` was built from `origin` and every file has its recorded size."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        sizes = {name: (folder / name).stat().st_size for name in record["bytes"]}
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return bool(record.get("origin") == dict(origin) and sizes == record["bytes"])


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
        yield temporary
        sizes = {path.name: path.stat().st_size for path in sorted(temporary.iterdir())}
        _write_synced(temporary / RECORD, json.dumps({"origin": dict(origin), "bytes": sizes}, indent=1))
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
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
