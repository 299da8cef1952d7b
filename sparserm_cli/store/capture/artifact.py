"""activations.zarr: where it lies, its writer and its reader."""

from pathlib import PurePath

from sparserm_cli.store.capture.reader import ActivationsReader, TokenBlock
from sparserm_cli.store.capture.writer import ActivationsWriter, NonFiniteError
from sparserm_cli.store.io.storage import storage_of
from sparserm_cli.store.units.unit_store import MANIFEST, PLAN

__all__ = [
    "FOLDER",
    "ActivationsReader",
    "ActivationsWriter",
    "NonFiniteError",
    "TokenBlock",
    "capture_path",
    "open_capture",
    "remove_capture",
]

FOLDER = "activations.zarr"


def capture_path(run: PurePath) -> PurePath:
    """Return where the capture of a run directory lies."""
    return run / FOLDER


def open_capture(run: PurePath) -> ActivationsReader:
    """Open the complete capture of a run directory for a stage that builds on it.

    Raises:
        IncompatibleError: there is none, it is not complete or newer than this program, or a file that it was
            made from lies where it lay and has changed by so much as a byte.
        CorruptStoreError: a file is missing, empty, cut, or of another plan; names the unit.

    """
    capture = ActivationsReader(capture_path(run))
    capture.check_inputs()
    return capture


def remove_capture(root: PurePath) -> None:
    """Remove a capture; a crash leaves the whole capture or none."""
    storage_of(root).remove_artifact(MANIFEST, PLAN)
