"""Names, sizes and digests of the files of an artifact."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sparserm_cli.store.io.local_disk import digest_file, size_of


class FileFact(NamedTuple):
    """The recorded path, size and digest of one file of an artifact."""

    path: str
    """Path relative to the artifact, with `/` as separator."""
    size: int
    """Size in bytes."""
    xxh3_128: str
    """The xxh3-128 digest of its bytes, in hexadecimal."""


def files_to_json(files: Sequence[FileFact]) -> list[list[Any]]:
    """Return files as lists of path, size and digest."""
    return [list(file) for file in files]


def files_from_json(value: Sequence[Sequence[Any]]) -> tuple[FileFact, ...]:
    """Read the output of `files_to_json`; raises ValueError or TypeError for anything else."""
    return tuple(FileFact(str(path), int(size), str(digest)) for path, size, digest in value)


def inventory(root: Path) -> tuple[FileFact, ...]:
    """Return the facts of every file below `root`, read back from the disk and sorted by path."""
    facts = []
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            relative = path.relative_to(root).as_posix()
            facts.append(FileFact(relative, size_of(path), digest_file(path)))
    return tuple(sorted(facts))
