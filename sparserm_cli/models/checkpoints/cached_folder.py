"""Build folders of the cache, each of which appears whole or not at all."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sparserm_cli.errors import ResourceError
from sparserm_cli.store.io.atomic import atomic_folder, sweep
from sparserm_cli.store.io.local_disk import digest_file, make_folder

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
    return file_stat.st_mtime_ns == fact["changed_ns"] or digest_file(path) == fact["digest"]


def _fact(path: Path) -> dict[str, Any]:
    """Return the facts that are recorded about a file."""
    file_stat = path.stat()
    facts = {"bytes": file_stat.st_size, "changed_ns": file_stat.st_mtime_ns}
    return facts | {"digest": digest_file(path), "sampled": _sampled(path)}


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
    """Yield a temporary folder to fill, and rename it onto `target` when the block ends without an error.

    Two processes that build the same target both succeed: the second finds the first one's folder whole
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
