"""A list of every file in a folder, with sizes and digests."""

import os
from pathlib import Path

from sparserm_cli.store.places import digest_file, size_of
from sparserm_cli.store.receipts import FileFact


def inventory(root: Path) -> tuple[FileFact, ...]:
    """Return every file below `root`, read back from the disk, sorted by path."""
    facts = []
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            relative = path.relative_to(root).as_posix()
            facts.append(FileFact(relative, size_of(path), digest_file(path)))
    return tuple(sorted(facts))
