"""The path of a run's features, and their removal."""

from pathlib import PurePath

from sparserm_cli.store.io.storage import storage_of
from sparserm_cli.store.units.unit_store import MANIFEST, PLAN

FOLDER = "features.zarr"


def features_path(run: PurePath) -> PurePath:
    """Return where the encoding of a run directory lies."""
    return run / FOLDER


def remove_features(root: PurePath) -> None:
    """Remove an encoding; a crash leaves the whole encoding or none."""
    storage_of(root).remove_artifact(MANIFEST, PLAN)
