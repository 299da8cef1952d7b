"""Import a capture from an HDF5 file whose maker is not trusted.

No link is followed, no dataset may be larger than the bytes that the file holds, and no name is taken from
the file. The new capture is checked against the recorded digests before it gets its name.
Memory: one unit and the rows arrays.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from sparserm_cli.errors import CorruptStoreError, IncompatibleError
from sparserm_cli.store.arrays.checked_zarr import SafeStore
from sparserm_cli.store.capture.layout import create_arrays, freeze
from sparserm_cli.store.capture.plan import POOLED, ExtractPlan, plan_of
from sparserm_cli.store.capture.row_arrays import CHUNK, row_types, sizes, write_array
from sparserm_cli.store.capture.rows import Rows
from sparserm_cli.store.capture.writer import ActivationsWriter, NonFiniteError
from sparserm_cli.store.exchange.hdf5_export import KIND, VERSION
from sparserm_cli.store.io.atomic import atomic_folder
from sparserm_cli.store.io.sealed_json import json_object
from sparserm_cli.store.io.storage import storage_of
from sparserm_cli.store.provenance import check_version
from sparserm_cli.store.units.records import REJECTS, Manifest, Plan, UnitFacts
from sparserm_cli.store.units.unit_store import INNER

_TEXT_CAP = 1 << 28  # limit of a JSON text in bytes; a plan of a million units is smaller
_HINT = "export it again from a capture that `sparserm verify --deep` accepts"


def read_hdf5(source: Path, root: Path) -> Manifest:
    """Build a capture at `root` from an exported file.

    Args:
        source: path of the file.
        root: folder of the new capture; an existing one is replaced at the end.

    Returns:
        the manifest, whose digest is the one recorded in the file.

    Raises:
        IncompatibleError: the file is of another kind, or newer than this program.
        CorruptStoreError: the file is damaged, or differs from what `export_capture` writes.
        ResourceError: the disk is full.

    """
    with _opened(source) as file:
        recorded = json_object(_text(source, file, "plan"), f"{source}: plan", _HINT)
        frozen = Plan.from_json(f"{source}: plan", recorded)
        plan = plan_of(f"{source}: plan", frozen)
        facts = _facts(source, _text(source, file, "facts"), plan)
        datasets = _checked_datasets(source, file, plan)
        with atomic_folder(root, plan.bytes) as part:
            _build_plan(part, source, file, datasets, plan, frozen.identity)
            writer = ActivationsWriter(part)
            _expect(source, "plan hash", plan.plan_hash, writer.store.plan_hash)
            _check_rows(writer.rows)
            for unit, unit_facts in enumerate(facts):
                _write_unit(source, writer, unit, dict(_unit_arrays(datasets, writer, unit)), unit_facts)
            manifest = writer.store.finalize()
            digest = "" if manifest is None else manifest.digest
            _expect(source, "digest", str(file.attrs.get("digest", "")), digest)
    if manifest is None:
        raise CorruptStoreError(str(source), "all units", "some missing", _HINT)
    return manifest


@contextmanager
def _opened(source: Path) -> Iterator[Any]:
    """Open the file and check its type; turn the errors of h5py for damage into CorruptStoreError."""
    if not source.is_file():
        raise IncompatibleError(str(source), "an exported capture", "no file", "name another file")
    try:
        with h5py.File(source, "r") as file:
            header = {name: _plain(file.attrs.get(name)) for name in ("type", "version")}
            check_version(str(source), KIND, {k: v for k, v in header.items() if v is not None}, VERSION)
            yield file
    except (OSError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
            raise
        found = " ".join(str(error).split())[:200]
        raise CorruptStoreError(str(source), "a whole HDF5 file", found, _HINT) from error


def _plain(value: Any) -> Any:
    """Return an attribute as a Python value."""
    return value.item() if isinstance(value, np.generic) else value


def _expect(source: Path, what: str, expected: str, found: str) -> None:
    """Raise CorruptStoreError unless two digests agree."""
    if expected != found:
        raise CorruptStoreError(f"{source}: {what}", expected, found, _HINT)


# --- the datasets of the file ---


def _checked_datasets(source: Path, file: Any, plan: ExtractPlan) -> dict[str, Any]:
    """Return the datasets of the plan, each of them checked."""
    settings, layout = plan.settings, plan.layout
    types = row_types(layout)
    expected: dict[str, tuple[tuple[int, ...], str]] = {
        f"rows/{name}": ((length,), types[name]) for name, length in sizes(layout).items()
    }
    for layer in settings.layers:
        for name in POOLED:
            expected[f"layers/{layer}/{name}"] = ((layout.responses, settings.d_in), "float32")
        if settings.positions == "response":
            dtype = "uint16" if settings.dtype == "bfloat16" else "float32"
            expected[f"layers/{layer}/tokens"] = ((layout.response_tokens, settings.d_in), dtype)
    return {name: _dataset(source, file, name, *kind) for name, kind in expected.items()}


def _dataset(source: Path, file: Any, path: str, shape: tuple[int, ...] | None, dtype: str) -> Any:
    """Return a dataset that is fully stored in the file itself, with the expected shape and type.

    A link or an external or virtual dataset may point to any file of this machine, and a dataset that is
    compressed or was never written may claim any size. All of these are refused.
    """
    where, node = f"{source}: {path}", file
    for name in path.split("/"):
        link = node.get(name, getlink=True) if isinstance(node, h5py.Group) else None
        if not isinstance(link, h5py.HardLink):
            found = "nothing" if link is None else type(link).__name__
            raise CorruptStoreError(where, "a dataset in the file itself", found, _HINT)
        node = node[name]
    if not isinstance(node, h5py.Dataset) or node.is_virtual or node.external:
        raise CorruptStoreError(where, "a dataset in the file itself", "something else", _HINT)
    if node.dtype != dtype or node.ndim != len(shape or (0,)) or shape not in (None, node.shape):
        found = f"{node.shape} {node.dtype}"
        raise CorruptStoreError(where, f"{shape or '(bytes,)'} {dtype}", found, _HINT)
    stored = node.id.get_storage_size()
    if node.compression is not None or stored < node.nbytes:
        found = f"{stored} stored bytes for {node.nbytes}"
        raise CorruptStoreError(where, "every byte stored, uncompressed", found, _HINT)
    return node


def _text(source: Path, file: Any, name: str) -> bytes:
    """Return a text of the file."""
    dataset = _dataset(source, file, name, None, "uint8")
    if dataset.nbytes > _TEXT_CAP:
        found = f"{dataset.nbytes:,} bytes"
        raise CorruptStoreError(f"{source}: {name}", f"at most {_TEXT_CAP:,} bytes", found, _HINT)
    return bytes(dataset[:].tobytes())


def _facts(source: Path, text: bytes, plan: ExtractPlan) -> list[UnitFacts]:
    """Return the facts of all units."""
    where = f"{source}: facts"
    try:
        units = [UnitFacts.from_json(value) for value in json_object(text, where, _HINT)["units"]]
    except (ValueError, TypeError, KeyError) as error:
        raise CorruptStoreError(where, "facts of units", repr(error), _HINT) from None
    _expect(source, "number of units", str(plan.layout.units), str(len(units)))
    return units


# --- building ---


def _build_plan(
    part: Path,
    source: Path,
    file: Any,
    datasets: Mapping[str, Any],
    plan: ExtractPlan,
    identity: Mapping[str, Any],
) -> None:
    """Write the metadata of the arrays, the rows and the plan, as the planner does."""
    store = SafeStore(part, sync=False)
    create_arrays(store, plan)
    for name, length in sizes(plan.layout).items():
        dataset = datasets[f"rows/{name}"]
        pieces = (dataset[at : at + CHUNK] for at in range(0, length, CHUNK))
        write_array(store, name, length, pieces)
    storage_of(part / INNER).make_folder()
    storage_of(part / REJECTS).write_atomic(_text(source, file, "rejects"))
    freeze(part, plan, identity)


def _check_rows(rows: Rows) -> None:
    """Check that the rows fit together, as those of the planner do.

    Raises:
        CorruptStoreError: a length, number or bound is out of range.

    """
    layout, starts, pairs = rows.layout, rows.unit_response_start, rows.pairs
    tokens = np.diff(rows.response_offset[np.clip(starts, 0, layout.responses)])
    wrong = {
        "response_length": (rows.response_length < 1).any()
        or rows.response_offset[-1] != layout.response_tokens,
        "prompt_length": (rows.prompt_length < 0).any() or rows.prompt_offset[-1] != layout.prompt_tokens,
        "response_prompt": (np.diff(rows.response_prompt) < 0).any()
        or not _within(rows.response_prompt, layout.prompts),
        "unit_response_start": starts[0] != 0
        or starts[-1] != layout.responses
        or (np.diff(starts) < 1).any()
        or np.diff(starts).max() != layout.responses_per_unit
        or tokens.max() != layout.tokens_per_unit,
        "pair_chosen": not _within(pairs.chosen, layout.responses),
        "pair_rejected": not _within(pairs.rejected, layout.responses),
        "pair_margin": np.isinf(rows.pair_margin).any()
        or np.count_nonzero(~np.isnan(rows.pair_margin)) != layout.margins,
    }
    for name, is_wrong in wrong.items():
        if is_wrong:
            found = "some that are out of range"
            raise CorruptStoreError(f"rows/{name}", "numbers that fit the plan", found, "export it again")


def _within(numbers: np.ndarray, stop: int) -> bool:
    """Return whether all numbers are at least 0 and below `stop`."""
    return not len(numbers) or bool(numbers.min() >= 0 and numbers.max() < stop)


def _write_unit(
    source: Path,
    writer: ActivationsWriter,
    unit: int,
    layers: Mapping[int, Mapping[str, np.ndarray]],
    facts: UnitFacts,
) -> None:
    """Write one unit; numbers that no capture can have count as damage."""
    try:
        writer.write_unit(unit, layers, facts)
    except NonFiniteError as error:
        where = f"{source} (unit {unit})"
        raise CorruptStoreError(where, error.expected, error.found, _HINT) from None


def _unit_arrays(
    datasets: Mapping[str, Any], writer: ActivationsWriter, unit: int
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Yield the arrays of a unit, layer by layer."""
    span = writer.rows.span(unit)
    tokens = slice(*writer.rows.unit_token_start[unit : unit + 2].tolist())
    for layer in writer.plan.settings.layers:
        arrays = {name: datasets[f"layers/{layer}/{name}"][span.start : span.stop] for name in POOLED}
        if writer.plan.settings.positions == "response":
            arrays["tokens"] = datasets[f"layers/{layer}/tokens"][tokens]
        yield layer, arrays
