"""comparison.json: what `compare` measured, sealed like every small artifact.

`type` and `version` MUST be there; the rest is what `study.compare.compare` gives.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparserm_cli.store.files import make_folder, read_sealed, write_sealed
from sparserm_cli.store.lineage import check_version

COMPARISON = "comparison.json"
TYPE, VERSION = "comparison", 1


def comparison_path(run: Path) -> Path:
    """Return where the comparison of a run directory lies."""
    return run / COMPARISON


def write_comparison(path: Path, found: Mapping[str, Any]) -> None:
    """Write a comparison whole or not at all.

    Raises:
        ResourceError: the disk is full or the folder cannot be written.

    """
    make_folder(path.parent)
    write_sealed(path, {"type": TYPE, "version": VERSION, **found})


def read_comparison(path: Path) -> Mapping[str, Any]:
    """Read what `write_comparison` wrote.

    Raises:
        IncompatibleError: it is of another type or newer than this program.
        CorruptStoreError: it is not there, cut or changed.

    """
    value = read_sealed(path, "run `sparserm compare` again")
    check_version(str(path), TYPE, value, VERSION)
    return value
