"""directions/: the preference directions of each layer.

    directions.safetensors    layers.14 float32 [2K, d_in]: the decoder rows, preferred first, MUST
    directions.json           the lineage, size and digest of the other file, and for each layer and row, in
                              the same order, MUST:

| field | |
|---|---|
| feature | latent of the SAE; null for a random direction |
| side | 1 preferred, -1 dispreferred |
| statistic | statistic by which it was chosen, positive for preferred; null for a control |
| rate_chosen, rate_rejected | share of tokens or responses on which it fires |
| q | Benjamini-Hochberg q-value of McNemar's test of its pairs |
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

import numpy as np
import xxhash
from jaxtyping import Float32, Float64, Int8, Int64
from safetensors import SafetensorError
from safetensors.numpy import load, save_file

from sparserm_cli.errors import CorruptStoreError, IncompatibleError
from sparserm_cli.store.io.atomic import atomic_folder
from sparserm_cli.store.io.file_facts import files_to_json, inventory
from sparserm_cli.store.io.sealed_json import read_sealed, write_sealed
from sparserm_cli.store.io.storage import storage_of
from sparserm_cli.store.provenance import Lineage, check_version, now

FOLDER = "directions"
TYPE, VERSION = "directions", 1
COMMAND = "sparserm select"
JSON = "directions.json"
_TENSORS = "directions.safetensors"
_NUMBERS = ("statistic", "rate_chosen", "rate_rejected", "q")


@dataclass(frozen=True)
class LayerDirections:
    """The directions of one layer, preferred ones first."""

    rows: Float32[np.ndarray, "directions d_in"]
    """Decoder rows, as the SAE has them (not always of norm 1)."""
    feature: Int64[np.ndarray, " directions"]
    """Latent of each direction; -1 for a random direction."""
    side: Int8[np.ndarray, " directions"]
    """1 preferred, -1 dispreferred."""
    statistic: Float64[np.ndarray, " directions"]
    """Statistic by which each was chosen; NaN for a control."""
    rate_chosen: Float64[np.ndarray, " directions"]
    """Share of the chosen side's tokens or responses on which it fires; NaN for a random direction."""
    rate_rejected: Float64[np.ndarray, " directions"]
    """The same of the rejected side."""
    q: Float64[np.ndarray, " directions"]
    """q-value of McNemar's test; NaN for a random direction."""


@dataclass(frozen=True)
class Directions:
    """The directions of all layers."""

    lineage: Lineage
    """The lineage; its digest covers the rows and their metadata, and `write_directions` fills it in."""
    layers: Mapping[int, LayerDirections]
    """Mapping from layer to directions, in the order in which a reward model uses them."""


def directions_path(run: PurePath) -> PurePath:
    """Return where the directions of a run directory lie."""
    return run / FOLDER


def write_directions(run: PurePath, directions: Directions) -> Directions:
    """Write directions/ whole or not at all, and return what was written with its digest.

    Raises:
        ResourceError: the disk is full or the folder cannot be written.

    """
    records = {str(layer): _row_records(rows) for layer, rows in directions.layers.items()}
    tensors = {
        f"layers.{layer}": np.ascontiguousarray(selected.rows)
        for layer, selected in directions.layers.items()
    }
    lineage = replace(directions.lineage, digest=_digest(tensors, directions.layers), created=now())
    size = sum(rows.nbytes for rows in tensors.values())
    with atomic_folder(directions_path(run), size, sealed_by=JSON) as part:
        save_file(tensors, part / _TENSORS)
        files = files_to_json(inventory(part))
        write_sealed(part / JSON, {**lineage.to_json(), "files": files, "layers": records})
    return replace(directions, lineage=lineage)


def read_directions(run: PurePath) -> Directions:
    """Read and check directions/.

    Raises:
        IncompatibleError: there is none, it is of another type, or newer than this program.
        CorruptStoreError: a file is missing, cut or changed.

    """
    folder = directions_path(run)
    if not storage_of(folder).is_there(JSON):
        raise IncompatibleError(str(folder), "preference directions", "no folder", f"run `{COMMAND}` first")
    again = f"run `{COMMAND}` again"
    head = read_sealed(folder / JSON, again)
    check_version(str(folder), TYPE, head, VERSION)
    lineage = Lineage.from_json(str(folder / JSON), head)
    try:
        tensors = load(storage_of(folder / _TENSORS).read_cached())
    except (OSError, SafetensorError) as error:
        found = type(error).__name__
        raise CorruptStoreError(str(folder / _TENSORS), "the decoder rows", found, again) from None
    try:
        layers = {
            int(layer): _layer(tensors[f"layers.{layer}"], rows) for layer, rows in head["layers"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise CorruptStoreError(str(folder), "directions of format 1", repr(error), again) from None
    digest = _digest(tensors, layers)
    if digest != lineage.digest:
        raise CorruptStoreError(str(folder), f"xxh3-128 {lineage.digest}", f"xxh3-128 {digest}", again)
    return Directions(lineage, layers)


def _row_records(directions: LayerDirections) -> list[dict[str, Any]]:
    """Return the metadata of each row as JSON objects."""
    return [
        {
            "feature": None if directions.feature[row] < 0 else int(directions.feature[row]),
            "side": int(directions.side[row]),
            **{name: _number(getattr(directions, name)[row]) for name in _NUMBERS},
        }
        for row in range(len(directions.rows))
    ]


def _number(value: float) -> float | None:
    """Return a number as JSON has it: NaN is null."""
    return None if math.isnan(value) else float(value)


def _layer(rows: np.ndarray, facts: list[Mapping[str, Any]]) -> LayerDirections:
    """Read one layer."""
    if rows.ndim != 2 or len(rows) != len(facts) or rows.dtype != np.float32:
        raise ValueError(f"{rows.dtype} {rows.shape} for {len(facts)} directions")
    kinds = {type(item[name]) for item in facts for name in _NUMBERS}
    if not kinds <= {int, float, type(None)}:
        raise ValueError(f"{', '.join(sorted(kind.__name__ for kind in kinds))} for numbers")
    numbers = {
        name: np.array([math.nan if item[name] is None else item[name] for item in facts], np.float64)
        for name in _NUMBERS
    }
    feature = np.array([-1 if item["feature"] is None else item["feature"] for item in facts], np.int64)
    sides = [item["side"] for item in facts]
    if not (rows.size and np.isfinite(rows).all() and set(sides) <= {-1, 1}):
        raise ValueError(f"rows that are no numbers, or sides {sorted(set(sides))}")
    for name, values in numbers.items():
        given = values[~np.isnan(values)]
        good = np.isfinite(given) if name == "statistic" else (given >= 0) & (given <= 1)
        if not good.all():
            raise ValueError(f"{name} {values.tolist()}")
    if not all(type(item["feature"]) in (int, type(None)) for item in facts) or (feature < -1).any():
        raise ValueError(f"features {[item['feature'] for item in facts]}")
    return LayerDirections(rows, feature, np.array([item["side"] for item in facts], np.int8), **numbers)


def _digest(tensors: Mapping[str, np.ndarray], layers: Mapping[int, LayerDirections]) -> str:
    """Return the xxh3-128 of all rows and their metadata."""
    hasher = xxhash.xxh3_128()
    for layer, directions in layers.items():
        hasher.update(f"{layer}".encode())
        for values in (
            tensors[f"layers.{layer}"],
            directions.feature,
            directions.side,
            *(getattr(directions, n) for n in _NUMBERS),
        ):
            hasher.update(np.ascontiguousarray(values).data)
    return hasher.hexdigest()
