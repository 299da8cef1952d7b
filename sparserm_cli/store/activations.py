"""activations.zarr: residual streams of responses, written unit by unit and read as a stream.

Axes: `rows` are the response tokens or the responses of one unit, `d_in` the width of the residual stream.
Memory: one unit.
"""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int32, UInt32

from sparserm_cli.errors import PartialError, UsageError
from sparserm_cli.store import bits
from sparserm_cli.store.checks import open_complete
from sparserm_cli.store.files import remove
from sparserm_cli.store.layout import ACTIVATIONS, VERSION
from sparserm_cli.store.lineage import Lineage
from sparserm_cli.store.plan import POOLED, ExtractPlan, check_inputs, plan_of
from sparserm_cli.store.receipts import Manifest, Receipt, UnitFacts
from sparserm_cli.store.rows import Pairs, Rows, TreeRows
from sparserm_cli.store.units import PLAN, UnitStore
from sparserm_cli.store.zarrs import SafeStore, chunk_path, open_array, read_rows, write_rows

FOLDER = "activations.zarr"
COMMAND = "sparserm extract"


def capture_path(run: Path) -> Path:
    """Return where the capture of a run directory lies."""
    return run / FOLDER


def remove_capture(root: Path) -> None:
    """Throw a capture away, plan first, so that what is left after a crash is taken for nothing."""
    remove(root / PLAN)
    shutil.rmtree(root)


class NonFiniteError(PartialError):
    """A unit has NaN or infinite numbers where it may not."""


class TokenBlock(NamedTuple):
    """The response tokens of one unit."""

    unit: int
    """Its number."""
    responses: range
    """Its responses."""
    lengths: Int32[np.ndarray, " unit_responses"]
    """Tokens of each of its responses."""
    rows: np.ndarray
    """Shape (tokens, d_in): float32, or bfloat16 bits as uint16 if raw was asked for."""


class ActivationsWriter:
    """Fills a planned capture.

    Args:
        root: the capture's folder, made by `PlanWriter.freeze`.
        run_id: this run's name, for receipts.

    Raises:
        IncompatibleError: there is no such capture, or it is newer than this program.
        CorruptStoreError: its plan cannot be read.

    """

    def __init__(self, root: Path, run_id: str = "") -> None:
        self.root = root
        self.store = UnitStore(root, ACTIVATIONS, VERSION, COMMAND, run_id)
        self.plan = plan_of(str(root), self.store.plan)
        self.rows = Rows(SafeStore(root, read_only=True), self.plan.layout)

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
        zarr_store = SafeStore(self.root)
        files = []
        for layer, arrays in layers.items():
            for name, values in arrays.items():
                path = f"layers/{layer}/{name}"
                self._write_chunk(zarr_store, path, unit, values)
                files.append(chunk_path(path, unit))
        tokens = int(self.rows.lengths(unit).sum())
        told = replace(
            facts,
            rows=tokens if self.plan.settings.positions == "response" else len(span),
            absmax=max(bits.absmax(values) for arrays in layers.values() for values in arrays.values()),
        )
        return self.store.commit(unit, files, told, zarr_store.written)

    def _write_chunk(self, store: SafeStore, path: str, unit: int, values: np.ndarray) -> None:
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
            found = {name: (values.shape, values.dtype) for name, values in arrays.items()}
            if found != expected:
                raise ValueError(f"layer {layer} of unit {unit} has {found} instead of {expected}")
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


class ActivationsReader:
    """A complete capture, checked as far as one stat for each file goes.

    Args:
        root: the capture's folder.
        allow_partial: accept a capture with units missing; they are left out, and `present` tells which
            responses are there.

    Raises:
        IncompatibleError: there is none, it is not complete, or it is newer than this program.
        CorruptStoreError: a file is missing, empty, cut, or of another plan; names the unit.

    """

    def __init__(self, root: Path, *, allow_partial: bool = False) -> None:
        self.root = root
        self.store = UnitStore(root, ACTIVATIONS, VERSION, COMMAND)
        self.plan: ExtractPlan = plan_of(str(root), self.store.plan)
        self._zarr = SafeStore(root, read_only=True)
        self.rows = Rows(self._zarr, self.plan.layout)
        pending = self.store.pending() if allow_partial else []
        self.manifest: Manifest | None = None if pending else open_complete(self.store)
        self.units = [unit for unit in range(self.plan.layout.units) if unit not in set(pending)]
        self.rejected: tuple[int, ...] = self._rejected() if self.manifest is None else self.manifest.rejected

    def _rejected(self) -> tuple[int, ...]:
        """Return the rejected responses of a partial capture."""
        receipts = [self.store.receipt(unit) for unit in self.units]
        return tuple(one for receipt in receipts if receipt is not None for one in receipt.facts.rejected)

    @property
    def digest(self) -> str:
        """The content digest; "" of a partial capture."""
        return "" if self.manifest is None else self.manifest.digest

    @property
    def lineage(self) -> Lineage:
        """What a child artifact records of this capture."""
        return self.store.plan.lineage(self.digest)

    def check_inputs(self) -> None:
        """Hash the input files again; raises IncompatibleError naming a changed one."""
        check_inputs(self.plan)

    # --- rows ---

    def pairs(self) -> Pairs:
        """Return all pairs as numbers of responses."""
        return self.rows.pairs

    def prompt_group(self) -> np.ndarray:
        """Return the group of each prompt, uint64 (prompts,)."""
        return self.rows.prompt_group

    def response_group(self) -> np.ndarray:
        """Return the group of each response, uint64 (responses,)."""
        return np.asarray(self.rows.prompt_group[self.rows.response_prompt])

    @property
    def response_lengths(self) -> Int32[np.ndarray, " responses"]:
        """Tokens of each response."""
        return self.rows.response_length

    def token_ids(self, response: int) -> UInt32[np.ndarray, " r"]:
        """Return the token ids of a response."""
        return self.rows.response_ids(response)

    def present(self) -> Bool[np.ndarray, " responses"]:
        """Tell which responses have vectors: those of units that are there, without rejected ones."""
        mask = np.zeros(self.plan.layout.responses, bool)
        for unit in self.units:
            span = self.rows.span(unit)
            mask[span.start : span.stop] = True
        mask[list(self.rejected)] = False
        return mask

    # --- vectors ---

    def iter_tokens(self, layer: int, *, raw: bool = False) -> Iterator[TokenBlock]:
        """Yield the response tokens unit by unit.

        Args:
            layer: one of the plan's.
            raw: give bfloat16 as its bits instead of float32; half the memory.

        Raises:
            UsageError: the layer was not captured, or only pooled vectors were.
            CorruptStoreError: a chunk is damaged; names the unit.

        """
        self._require(layer, "response")
        for unit in self.units:
            yield self._tokens(layer, unit, raw=raw)

    def tokens(self, layer: int, response: int) -> Float32[np.ndarray, "r d_in"]:
        """Return the residual stream on one response; raises as `iter_tokens`."""
        self._require(layer, "response")
        unit = int(np.searchsorted(self.rows.unit_response_start, response, side="right")) - 1
        begin = int(
            self.rows.response_offset[response] - self.rows.response_offset[self.rows.span(unit).start]
        )
        rows = self._tokens(layer, unit, raw=False).rows
        return np.asarray(rows[begin : begin + int(self.rows.response_length[response])])

    def iter_pooled(self, layer: int, name: str) -> Iterator[tuple[int, Float32[np.ndarray, "rows d_in"]]]:
        """Yield pooled vectors as first response and block, unit by unit.

        Args:
            layer: one of the plan's.
            name: `last` or `mean`.

        Raises:
            UsageError: the layer was not captured, or there is no such pooling.
            CorruptStoreError: a chunk is damaged; names the unit.

        """
        self._require(layer, "pooled")
        if name not in POOLED:
            raise UsageError("--pool", " or ".join(POOLED), name, "choose one")
        height = self.plan.layout.responses_per_unit
        for unit in self.units:
            span = self.rows.span(unit)
            start = unit * height
            path = f"layers/{layer}/{name}"
            yield span.start, read_rows(self._zarr, path, start, start + len(span), unit)

    def pooled(self, layer: int, name: str) -> Float32[np.ndarray, "responses d_in"]:
        """Return all pooled vectors, NaN where `present` says no; raises as `iter_pooled`."""
        shape = (self.plan.layout.responses, self.plan.settings.d_in)
        values = np.full(shape, np.nan, np.float32)
        for start, block in self.iter_pooled(layer, name):
            values[start : start + len(block)] = block
        return values

    def _tokens(self, layer: int, unit: int, *, raw: bool) -> TokenBlock:
        """Read the tokens of a unit."""
        lengths = self.rows.lengths(unit)
        start = unit * self.plan.layout.tokens_per_unit
        path = f"layers/{layer}/tokens"
        values = read_rows(self._zarr, path, start, start + int(lengths.sum()), unit)
        if values.dtype == np.uint16 and not raw:
            values = bits.to_float32(values)
        return TokenBlock(unit, self.rows.span(unit), lengths, values)

    def _require(self, layer: int, positions: str) -> None:
        """Raise UsageError unless the capture has this layer, and tokens if they are asked for."""
        settings = self.plan.settings
        if layer not in settings.layers:
            shown = ", ".join(map(str, settings.layers))
            raise UsageError("--layer", f"one of {shown}", str(layer), f"or run `{COMMAND} --layer {layer}`")
        if positions == "response" and settings.positions != "response":
            hint = f"run `{COMMAND} --positions response --force`"
            raise UsageError(str(self.root), "response tokens", "pooled vectors only", hint)
