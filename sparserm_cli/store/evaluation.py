"""evaluation.json: what `evaluate` measured, sealed like every small artifact.

`type` and `version` MUST be there; the rest is what the benchmark's rules give, see `study/evaluate.py`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparserm_cli.store.files import make_folder, read_sealed, write_sealed
from sparserm_cli.store.lineage import check_version

EVALUATION = "evaluation.json"
TYPE, VERSION = "evaluation", 1


def evaluation_path(run: Path) -> Path:
    """Return where the evaluation of a run directory lies."""
    return run / EVALUATION


def write_evaluation(path: Path, metrics: Mapping[str, Any]) -> None:
    """Write the metrics whole or not at all.

    Raises:
        ResourceError: the disk is full or the folder cannot be written.

    """
    make_folder(path.parent)
    write_sealed(path, {"type": TYPE, "version": VERSION, **metrics})


def read_evaluation(path: Path) -> Mapping[str, Any]:
    """Read what `write_evaluation` wrote.

    Raises:
        IncompatibleError: it is of another type or newer than this program.
        CorruptStoreError: it is not there, cut or changed.

    """
    value = read_sealed(path, "run `sparserm evaluate` again")
    check_version(str(path), TYPE, value, VERSION)
    return value
