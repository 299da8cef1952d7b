"""evaluation.json and comparison.json: results of measurements, in sealed JSON files.

`type` and `version` MUST be there; the commands `evaluate` and `compare` define all other fields.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from sparserm_cli.store.io.atomic import remove_leftovers
from sparserm_cli.store.io.sealed_json import read_sealed, write_sealed
from sparserm_cli.store.io.storage import storage_of
from sparserm_cli.store.provenance import check_version


@dataclass(frozen=True)
class Results:
    """One kind of results, with its own file in the run directory."""

    type: str
    """Type of the results, which also names the file."""
    version: int
    """Version of the format."""
    command: str
    """Command that makes the file."""

    def path(self, run: PurePath) -> PurePath:
        """Return where the measurements of a run directory lie."""
        return run / f"{self.type}.json"

    def write(self, path: PurePath, measurements: Mapping[str, Any]) -> None:
        """Write measurements whole or not at all.

        Raises:
            ResourceError: the disk is full or the folder cannot be written.

        """
        storage_of(path.parent).make_folder()
        remove_leftovers(path)
        write_sealed(path, {"type": self.type, "version": self.version, **measurements})

    def read(self, path: PurePath) -> Mapping[str, Any]:
        """Read the output of `write`.

        Raises:
            IncompatibleError: it is of another type or newer than this program.
            CorruptStoreError: the file is absent, truncated or changed.

        """
        value = read_sealed(path, f"run `{self.command}` again")
        check_version(str(path), self.type, value, self.version)
        return value


EVALUATION = Results("evaluation", 1, "sparserm evaluate")
COMPARISON = Results("comparison", 1, "sparserm compare")
