"""Export a capture as one HDF5 file, which is written once, read back and then renamed.

    /layers/14/last, mean     float32 [responses, d_in], row i is response i
    /layers/14/tokens         bfloat16 bits as uint16 (attribute logical_dtype), or float32, [tokens, d_in]
    /rows/...                 the same as in activations.zarr
    /plan, /facts, /rejects   uint8: JSON of the plan, JSON of the facts in each unit's receipt, rejects.jsonl

Every dataset has fletcher32 and no compression. The root attributes `type`, `version` and `digest`
identify the file. Memory: one unit.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xxhash

from sparserm_cli.errors import CorruptStoreError
from sparserm_cli.store.capture.plan import POOLED
from sparserm_cli.store.capture.reader import ActivationsReader
from sparserm_cli.store.capture.row_arrays import CHUNK, row_types
from sparserm_cli.store.io.atomic import atomic_file
from sparserm_cli.store.io.fault_points import fault_point
from sparserm_cli.store.io.sealed_json import canonical_json
from sparserm_cli.store.io.storage import storage_of
from sparserm_cli.store.units.records import REJECTS

KIND = "activations-hdf5"
VERSION = 1
"""Version of the format of exported files."""
_CHUNK_BYTES = 1 << 20
_CACHE_BYTES = 1 << 26  # more than the chunks in a row of datasets, so that none is written twice


def write_hdf5(target: Path, capture: ActivationsReader) -> None:
    """Write a complete capture to a temporary file, read every dataset back, and rename the file to `target`.

    Raises:
        CorruptStoreError: a chunk of the capture is damaged, or a dataset reads back differently.
        ResourceError: the disk is full.

    """
    storage_of(target.parent).make_folder()
    with atomic_file(target, capture.plan.bytes) as part:
        digests: dict[str, str] = {}
        with h5py.File(part, "w", libver="latest", rdcc_nbytes=_CACHE_BYTES) as file:
            file.attrs.update({"type": KIND, "version": VERSION, "digest": capture.digest})
            for name, shape, dtype, blocks in _datasets(capture):
                digests[name] = _write(file, name, shape, dtype, blocks)
            for layer in capture.plan.settings.layers:
                if capture.plan.settings.positions == "response":
                    file[f"layers/{layer}/tokens"].attrs["logical_dtype"] = capture.plan.settings.dtype
        fault_point("export-written")
        _read_back(part, digests)
        fault_point("export-read-back")


Blocks = Iterator[np.ndarray]


def _datasets(capture: ActivationsReader) -> Iterator[tuple[str, tuple[int, ...], str, Blocks]]:
    """Yield name, shape, type and blocks of every dataset."""
    settings, layout = capture.plan.settings, capture.plan.layout
    plan = json.dumps(capture.store.plan.to_json(), allow_nan=False).encode("ascii")
    facts = canonical_json({"units": [_facts(capture, unit) for unit in capture.units]})
    rejects = storage_of(capture.root / REJECTS).read_bytes()
    for name, data in {"plan": plan, "facts": facts, "rejects": rejects}.items():
        yield name, (len(data),), "uint8", iter([np.frombuffer(data, np.uint8)])
    for name, dtype in row_types(layout).items():
        length = capture.rows.length(name)
        pieces = (capture.rows.read(name, at, min(at + CHUNK, length)) for at in range(0, length, CHUNK))
        yield f"rows/{name}", (length,), dtype, pieces
    for layer in settings.layers:
        for name in POOLED:
            vectors = (block for _, block in capture.iter_pooled(layer, name))
            yield f"layers/{layer}/{name}", (layout.responses, settings.d_in), "float32", vectors
        if settings.positions == "response":
            tokens = (block.rows for block in capture.iter_tokens(layer, raw=True))
            dtype = "uint16" if settings.dtype == "bfloat16" else "float32"
            yield f"layers/{layer}/tokens", (layout.response_tokens, settings.d_in), dtype, tokens


def _facts(capture: ActivationsReader, unit: int) -> dict[str, Any]:
    """Return the facts of a unit from its receipt."""
    receipt = capture.store.receipt(unit)
    if receipt is None:
        where = f"{capture.root} (unit {unit})"
        raise CorruptStoreError(where, "a receipt", "none that is valid", "run `sparserm repair`")
    return dict(receipt.to_json()["facts"])


def _write(file: Any, name: str, shape: tuple[int, ...], dtype: str, blocks: Blocks) -> str:
    """Write one dataset block by block and return the digest of its bytes."""
    hasher = xxhash.xxh3_128()
    item = int(np.prod(shape[1:], dtype=np.int64)) * np.dtype(dtype).itemsize
    height = max(1, min(shape[0], _CHUNK_BYTES // item))
    chunked = {"chunks": (height, *shape[1:]), "fletcher32": True} if shape[0] else {}
    dataset = file.create_dataset(name, shape, dtype, **chunked)
    start = 0
    for block in blocks:
        if len(block):
            dataset[start : start + len(block)] = block
            hasher.update(np.ascontiguousarray(block).data)
            start += len(block)
    return hasher.hexdigest()


def _read_back(path: Path, digests: dict[str, str]) -> None:
    """Read every dataset and compare it with the bytes that were written.

    Raises:
        CorruptStoreError: a dataset differs.

    """
    hint = "the disk is not to be trusted: export again, elsewhere"
    try:
        with h5py.File(path, "r") as file:
            for name, expected in digests.items():
                hasher = xxhash.xxh3_128()
                for block in dataset_blocks(file[name]):
                    hasher.update(np.ascontiguousarray(block).data)
                if hasher.hexdigest() != expected:
                    raise CorruptStoreError(f"{path}: {name}", expected, hasher.hexdigest(), hint)
    except (OSError, KeyError) as error:
        raise CorruptStoreError(str(path), "what was written", str(error), hint) from error


def dataset_blocks(dataset: Any) -> Iterator[np.ndarray]:
    """Yield a dataset in blocks of about one MiB."""
    height = dataset.chunks[0] if dataset.chunks else max(1, len(dataset))
    for start in range(0, len(dataset), height):
        yield dataset[start : start + height]
