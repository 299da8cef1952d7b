"""Sparse latents of one unit on disk, as data, indices and indptr of a CSR matrix with one file per array.

Axes: `rows` are the unit's response tokens in store order, `entries` the latents that fire on them, `d_sae`
the columns. A latent fires where its value is above 0; only those are stored, columns rising in each row.

    00042/zarr.json          group; attributes as AnnData writes a csr_matrix, so that others can read it
    00042/data               float32 [entries], above 0
    00042/indices            uint16 [entries] if d_sae <= 65,536, else uint32
    00042/indptr             int64 [rows + 1]
"""

from typing import NamedTuple

import numpy as np
import zarr
from jaxtyping import Float32, Int64, UInt16, UInt32
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import MemoryStore

from sparserm_cli.errors import CorruptStoreError
from sparserm_cli.store.arrays.checked_zarr import (
    CheckedStore,
    array_options,
    open_array,
    reading,
    zarr_settings,
)

ARRAYS = ("data", "indices", "indptr")
_U16_COLUMNS = 1 << 16


class Csr(NamedTuple):
    """A CSR matrix of one unit."""

    data: Float32[np.ndarray, " entries"]
    """The values, all of them above 0."""
    indices: UInt16[np.ndarray, " entries"] | UInt32[np.ndarray, " entries"]
    """Column of each value, increasing within a row."""
    indptr: Int64[np.ndarray, " bounds"]
    """Index of the first value of each row, then the number of values: rows + 1 numbers."""


def index_type(d_sae: int) -> np.dtype[np.unsignedinteger]:
    """Return the type that column numbers are stored in."""
    return np.dtype(np.uint16 if d_sae <= _U16_COLUMNS else np.uint32)


def check_csr(csr: Csr, rows: int, d_sae: int) -> None:
    """Check the bounds, order and types of a matrix, and that its values are above 0.

    Raises:
        ValueError: the matrix is not valid; the error says what is wrong.

    """
    problem = _shape_problem(csr, rows, d_sae) or _content_problem(csr, d_sae)
    if problem:
        raise ValueError(problem)


def _shape_problem(csr: Csr, rows: int, d_sae: int) -> str:
    """Return what is wrong with the types and bounds; "" if they are right."""
    kinds = np.dtype(np.float32), index_type(d_sae), np.dtype(np.int64)
    types = csr.data.dtype, csr.indices.dtype, csr.indptr.dtype
    if types != kinds:
        return f"types {types} instead of {kinds}"
    if csr.indptr.shape != (rows + 1,) or csr.indptr[0] != 0 or (np.diff(csr.indptr) < 0).any():
        return f"indptr of {csr.indptr.shape} does not bound {rows} rows"
    if csr.data.shape != csr.indices.shape or csr.data.shape != (int(csr.indptr[-1]),):
        return f"{csr.data.shape} values, {csr.indices.shape} columns, {csr.indptr[-1]} entries"
    return ""


def _content_problem(csr: Csr, d_sae: int) -> str:
    """Return what is wrong with the columns and values; "" if they are right."""
    if not len(csr.data):
        return ""
    if int(csr.indices.max()) >= d_sae:
        return f"column {csr.indices.max()} of {d_sae}"
    rises = np.diff(csr.indices.astype(np.int64)) > 0
    starts = csr.indptr[1:-1]
    rises[starts[(starts > 0) & (starts < len(csr.data))] - 1] = True
    if not rises.all():
        return "columns do not rise within a row"
    if not (np.isfinite(csr.data) & (csr.data > 0)).all():
        return "values that are not above 0 and finite"
    return ""


def write_csr(store: CheckedStore, path: str, csr: Csr, d_sae: int) -> list[str]:
    """Write a checked matrix at `path`; writing it again writes the same bytes.

    Returns:
        the files written, relative to the store.

    """
    memory = MemoryStore()
    with zarr_settings():
        attributes = {
            "encoding-type": "csr_matrix",
            "encoding-version": "0.1.0",
            "shape": [len(csr.indptr) - 1, d_sae],
        }
        zarr.create_group(store=memory, path="", attributes=attributes)
        for name, values in zip(ARRAYS, csr, strict=True):
            options = array_options(values.shape, values.shape, values.dtype.type(0))
            array = zarr.create_array(store=memory, name=name, **options)
            if len(values):
                array[:] = values
        return sync(_copy(memory, store, path))


async def _copy(memory: MemoryStore, store: CheckedStore, path: str) -> list[str]:
    """Write every key of a store in memory below `path`.

    Zarr refuses to create an array that exists, and deletes it first when it overwrites; another worker at
    the same unit would then miss it.
    """
    keys = sorted([key async for key in memory.list()])
    for key in keys:
        value = await memory.get(key, default_buffer_prototype())
        if value is not None:
            await store.set(f"{path}/{key}", value)
    return [f"{path}/{key}" for key in keys]


def read_csr(store: CheckedStore, path: str, unit: int, rows: int, *, with_data: bool = True) -> Csr:
    """Read a matrix.

    Args:
        store: the store, for reading.
        path: path of the matrix in the store.
        unit: number of the unit, for errors.
        rows: number of rows that the matrix must have.
        with_data: whether to read the values; without them, all values are 1.

    Raises:
        CorruptStoreError: an array is missing or damaged, or the arrays do not fit together; the error names
            the unit.

    """
    arrays = [_read(store, f"{path}/{name}", unit) for name in ARRAYS[0 if with_data else 1 :]]
    indices, indptr = arrays[-2:]
    data = arrays[0] if with_data else np.ones(len(indices), np.float32)
    if indptr.shape != (rows + 1,) or len(indices) != indptr[-1] or len(data) != len(indices):
        found = f"{len(indptr) - 1} rows, {len(indices)} columns, {len(data)} values"
        hint = "run `sparserm verify --deep`"
        raise CorruptStoreError(f"{store.location / path} (unit {unit})", f"{rows} rows", found, hint)
    return Csr(data, indices, indptr)


def _read(store: CheckedStore, path: str, unit: int) -> np.ndarray:
    """Read one whole array."""
    array = open_array(store, path)
    with reading(f"{store.location / path} (unit {unit})"):
        return np.asarray(array[:])


def part_path(layer: int, unit: int) -> str:
    """Return the path of the matrix of a unit."""
    return f"layers/{layer}/parts/{unit:05d}"
