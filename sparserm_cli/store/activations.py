"""activations.zarr: where it lies, its writer and its reader."""

from pathlib import Path

from sparserm_cli.store.capture_reader import ActivationsReader, TokenBlock
from sparserm_cli.store.capture_writer import ActivationsWriter, NonFiniteError
from sparserm_cli.store.files import remove_folder

__all__ = [
    "FOLDER",
    "ActivationsReader",
    "ActivationsWriter",
    "NonFiniteError",
    "TokenBlock",
    "capture_path",
    "remove_capture",
]

FOLDER = "activations.zarr"


def capture_path(run: Path) -> Path:
    """Return where the capture of a run directory lies."""
    return run / FOLDER


def remove_capture(root: Path) -> None:
    """Remove a capture; a crash leaves the whole capture or none."""
    remove_folder(root)
