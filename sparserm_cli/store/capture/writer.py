"""Writing activations.zarr: residual streams of responses, unit by unit.

Axes: rows are the response tokens or the responses of one unit, `d_in` is the width of the residual stream.
Memory: one unit, twice.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePath

import numpy as np

from sparserm_cli.errors import PartialError
from sparserm_cli.store.arrays import bfloat16 as bits
from sparserm_cli.store.arrays.checked_zarr import CheckedStore, chunk_path, open_array, write_rows
from sparserm_cli.store.arrays.object_zarr import zarr_store
from sparserm_cli.store.capture.layout import ACTIVATIONS, COMMAND, VERSION
from sparserm_cli.store.capture.plan import POOLED, plan_of
from sparserm_cli.store.capture.rows import Rows, TreeRows
from sparserm_cli.store.provenance import Lineage
from sparserm_cli.store.units.records import Receipt, UnitFacts
from sparserm_cli.store.units.unit_store import UnitStore


class NonFiniteError(PartialError):
    """A unit has NaN or infinite numbers where it may not."""


class ActivationsWriter:
    """Fills a planned capture.

    Args:
        root: the capture's folder, made by `PlanWriter.freeze`.
        run_id: this run's name, for receipts.

    Raises:
        IncompatibleError: there is no such capture, or it is newer than this program.
        CorruptStoreError: its plan cannot be read.

    """

    def __init__(self, root: PurePath, run_id: str = "") -> None:
        self.root = root
        self.store = UnitStore(root, ACTIVATIONS, VERSION, COMMAND, run_id)
        self.plan = plan_of(str(root), self.store.plan)
        self.rows = Rows(zarr_store(root, self.store.plan, read_only=True), self.plan.layout)

    @property
    def lineage(self) -> Lineage:
        """The record of this capture in an artifact of the same pass, with the plan's hash, not a digest."""
        return self.store.plan.lineage(self.plan.plan_hash)

    def trees(self, unit: int) -> list[TreeRows]:
        """Return the prompts and responses that `unit` is computed from."""
        return self.rows.trees(unit)

    def write_unit(
        self, unit: int, layers: Mapping[int, Mapping[str, np.ndarray]], facts: UnitFacts
    ) -> Receipt:
        """Write all arrays of a unit, sync, read back, and write its receipt.

        Args:
            unit: its number.
            layers: for each layer of the plan `last` and `mean`, float32 (responses, d_in), and, unless only
                pooled vectors are kept, `tokens`, (response tokens, d_in) in store order, float32 or bfloat16
                bits as uint16, whichever the plan says.
            facts: device, batches, rejected responses, ...; `rows` and `absmax` are filled in here.

        Raises:
            NonFiniteError: a response that is not in `facts.rejected` has NaN or infinite numbers.
            ValueError: a layer or array is missing or has another shape or type.
            ResourceError: the disk is full.

        """
        span = self.rows.span(unit)
        self._check(unit, layers, facts)
        store = zarr_store(self.root, self.store.plan)
        files = []
        for layer, arrays in layers.items():
            for name, values in arrays.items():
                path = f"layers/{layer}/{name}"
                self._write_chunk(store, path, unit, values)
                files.append(chunk_path(path, unit))
        tokens = int(self.rows.lengths(unit).sum())
        completed = replace(
            facts,
            rows=tokens if self.plan.settings.positions == "response" else len(span),
            absmax=max(bits.absmax(values) for arrays in layers.values() for values in arrays.values()),
        )
        return self.store.commit(unit, files, completed, store.written)

    def _write_chunk(self, store: CheckedStore, path: str, unit: int, values: np.ndarray) -> None:
        """Write one chunk, its unused rows filled with NaN."""
        layout = self.plan.layout
        height = layout.tokens_per_unit if path.endswith("tokens") else layout.responses_per_unit
        fill = bits.NAN_BITS if values.dtype == np.uint16 else np.nan
        chunk = np.full((height, values.shape[1]), fill, values.dtype)
        chunk[: len(values)] = values
        write_rows(open_array(store, path), unit * height, chunk)

    def _check(self, unit: int, layers: Mapping[int, Mapping[str, np.ndarray]], facts: UnitFacts) -> None:
        """Check layers, names, shapes, types and finiteness."""
        settings, span, lengths = self.plan.settings, self.rows.span(unit), self.rows.lengths(unit)
        expected = {name: ((len(span), settings.d_in), np.dtype("float32")) for name in POOLED}
        if settings.positions == "response":
            kind = np.dtype("uint16" if settings.dtype == "bfloat16" else "float32")
            expected["tokens"] = ((int(lengths.sum()), settings.d_in), kind)
        if tuple(layers) != settings.layers:
            raise ValueError(f"layers {tuple(layers)} instead of {settings.layers}")
        allowed = np.isin(np.arange(span.start, span.stop), facts.rejected)
        for layer, arrays in layers.items():
            actual = {name: (values.shape, values.dtype) for name, values in arrays.items()}
            if actual != expected:
                raise ValueError(f"layer {layer} of unit {unit} has {actual} instead of {expected}")
            for name, values in arrays.items():
                bad = ~bits.is_finite(values).all(axis=1)
                if name == "tokens":
                    bad = np.logical_or.reduceat(bad, np.concatenate([[0], np.cumsum(lengths)[:-1]]))
                self._refuse_nonfinite(unit, layer, np.flatnonzero(bad & ~allowed) + span.start)

    def _refuse_nonfinite(self, unit: int, layer: int, responses: np.ndarray) -> None:
        """Raise NonFiniteError if there are any such responses."""
        if len(responses):
            shown = ", ".join(map(str, responses[:10])) + (", ..." if len(responses) > 10 else "")
            where, found = (
                f"{self.root} (unit {unit})",
                f"NaN or infinity in responses {shown} of layer {layer}",
            )
            hint = "compute in float32, or reject these responses"
            raise NonFiniteError(where, "finite numbers", found, hint)
