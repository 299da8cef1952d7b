"""How a folder in the cache becomes whole at once or not at all."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sparserm_cli.errors import ResourceError
from sparserm_cli.store.io.atomic import atomic_folder, sweep
from sparserm_cli.store.io.local_disk import digest_file, make_folder

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
    return file_stat.st_mtime_ns == fact["changed_ns"] or digest_file(path) == fact["digest"]


def _fact(path: Path) -> dict[str, Any]:
    """Return what is recorded of a file."""
    file_stat = path.stat()
    facts = {"bytes": file_stat.st_size, "changed_ns": file_stat.st_mtime_ns}
    return facts | {"digest": digest_file(path), "sampled": _sampled(path)}


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
    """Yield a temporary folder to fill, and rename it onto `target` when the block ends well.

    Two processes that build the same target both end well: the second finds the first one's folder whole
    and drops its own. A folder that is not whole is replaced. What a killed process left is removed by the
    next build beside it.
    """
    make_folder(target.parent)
    sweep(target.parent, everything=False)
    filled = False
    try:
        with atomic_folder(target) as part:
            yield part
            filled = True
            facts = {path.name: _fact(path) for path in sorted(part.iterdir())}
            # Earlier releases compare sizes alone, and would otherwise build the folder again.
            sizes = {name: fact["bytes"] for name, fact in facts.items()}
            record = {"origin": dict(origin), "bytes": sizes, "files": facts}
            (part / RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")
            if is_whole(target, origin):
                raise FileExistsError(target)
    except (OSError, ResourceError):
        # Another process may have put the same folder there before this one could.
        if not (filled and is_whole(target, origin)):
            raise
