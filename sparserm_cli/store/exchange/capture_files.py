"""Export and import a capture as one HDF5 file; export its pooled vectors as .npz or .safetensors.

No file written or read here holds code or is a pickle.
"""

import json
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from sparserm_cli.errors import IncompatibleError, UsageError
from sparserm_cli.locations import local_folder
from sparserm_cli.store.capture.artifact import FOLDER, capture_path
from sparserm_cli.store.capture.plan import POOLED
from sparserm_cli.store.capture.reader import ActivationsReader
from sparserm_cli.store.io.atomic import atomic_file
from sparserm_cli.store.io.storage import storage_of
from sparserm_cli.store.units.records import Manifest

_HDF5 = (".h5", ".hdf5")
_POOLED = (".npz", ".safetensors")


def export_capture(run: PurePath, target: Path) -> Path:
    """Export the capture of a run directory.

    Args:
        run: the run directory.
        target: path of the file. With `.h5` or `.hdf5` it holds everything and can be imported again; with
            `.npz` or `.safetensors` it holds the pooled vectors and the rows that they belong to.

    Returns:
        the path of the written file.

    Raises:
        UsageError: the file name has another ending.
        IncompatibleError: there is no complete capture.
        CorruptStoreError: the capture is damaged.
        ResourceError: the disk is full.

    """
    suffix = target.suffix.lower()
    if suffix not in _HDF5 + _POOLED:
        raise UsageError(str(target), " or ".join(_HDF5 + _POOLED), suffix or "no ending", "name a file")
    capture = ActivationsReader(capture_path(run))
    if suffix in _HDF5:
        from sparserm_cli.store.exchange.hdf5_export import write_hdf5

        write_hdf5(target, capture)
    else:
        _write_pooled(target, capture)
    return target


def import_capture(source: Path, run: PurePath, *, force: bool = False) -> Manifest:
    """Import an exported HDF5 file as the capture of a run directory.

    Args:
        source: a file that `export_capture` wrote.
        run: the run directory.
        force: replace an existing capture.

    Returns:
        the manifest; its digest is that of the capture that was exported.

    Raises:
        IncompatibleError: there is a capture, or the file is of another kind or newer than this program.
        CorruptStoreError: the file is damaged, or differs from what `export_capture` writes.
        ResourceError: the disk is full.

    """
    from sparserm_cli.store.exchange.hdf5_import import read_hdf5

    root = local_folder(run, "`sparserm import`") / FOLDER
    if root.exists() and not force:
        raise IncompatibleError(str(root), "no capture", "one", "use --force or another --run directory")
    return read_hdf5(source, root)


def _write_pooled(target: Path, capture: ActivationsReader) -> None:
    """Write the pooled vectors as `layer14_mean`, ... and the rows arrays without the token ids."""
    arrays: dict[str, np.ndarray] = {
        f"layer{layer}_{name}": capture.pooled(layer, name)
        for layer in capture.plan.settings.layers
        for name in POOLED
    }
    rows, pairs = capture.rows, capture.pairs()
    arrays |= {
        "present": capture.present(),
        "response_prompt": rows.response_prompt,
        "response_group": capture.response_group(),
        "response_length": rows.response_length,
        "response_characters": rows.response_characters,
        "response_flags": rows.response_flags,
        "pair_chosen": pairs.chosen,
        "pair_rejected": pairs.rejected,
        "pair_row": pairs.row,
    }
    if rows.layout.margins:
        arrays["pair_margin"] = rows.pair_margin
    about = {"digest": capture.digest, "identity": json.dumps(capture.plan.settings.identity())}
    storage_of(target.parent).make_folder()
    needed = sum(values.nbytes for values in arrays.values())
    with atomic_file(target, needed) as part, part.open("wb") as out:
        if target.suffix.lower() == ".npz":
            texts: dict[str, Any] = {name: np.array(text) for name, text in about.items()}
            np.savez(out, allow_pickle=False, **arrays, **texts)
        else:
            from safetensors.numpy import save

            out.write(save(arrays, about))
