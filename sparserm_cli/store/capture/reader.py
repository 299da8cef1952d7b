"""Reading activations.zarr: complete, or with a mask of what is there; as a stream, unit by unit.

Axes: `responses` in store order, `d_in` is the width of the residual stream. Memory: one unit, which `tokens`
keeps until it is asked for a response of another one; `pooled` holds all responses.
"""

from collections.abc import Iterator
from pathlib import PurePath
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int32, UInt32, UInt64

from sparserm_cli.errors import UsageError
from sparserm_cli.store.arrays import bfloat16 as bits
from sparserm_cli.store.arrays.checked_zarr import read_rows
from sparserm_cli.store.arrays.object_zarr import zarr_store
from sparserm_cli.store.capture.layout import ACTIVATIONS, COMMAND, VERSION
from sparserm_cli.store.capture.plan import POOLED, ExtractPlan, check_inputs, plan_of
from sparserm_cli.store.capture.rows import Pairs, Rows, check_response
from sparserm_cli.store.provenance import Lineage
from sparserm_cli.store.units.integrity import open_complete
from sparserm_cli.store.units.records import Manifest
from sparserm_cli.store.units.unit_store import UnitStore


class TokenBlock(NamedTuple):
    """The response tokens of one unit."""

    unit: int
    """Number of the unit."""
    responses: range
    """Numbers of its responses."""
    lengths: Int32[np.ndarray, " unit_responses"]
    """Number of tokens of each of its responses."""
    rows: np.ndarray
    """Shape (tokens, d_in): float32, or bfloat16 bits as uint16 if raw was asked for."""


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

    def __init__(self, root: PurePath, *, allow_partial: bool = False) -> None:
        self.root = root
        self.store = UnitStore(root, ACTIVATIONS, VERSION, COMMAND)
        self.plan: ExtractPlan = plan_of(str(root), self.store.plan)
        self._zarr = zarr_store(root, self.store.plan, read_only=True)
        self.rows = Rows(self._zarr, self.plan.layout)
        pending = self.store.pending() if allow_partial else []
        self.manifest: Manifest | None = None if pending else open_complete(self.store)
        self.units = [unit for unit in range(self.plan.layout.units) if unit not in set(pending)]
        self.rejected: tuple[int, ...] = self._rejected() if self.manifest is None else self.manifest.rejected
        self._last_read: tuple[int, TokenBlock] | None = None

    def _rejected(self) -> tuple[int, ...]:
        """Return the rejected responses of a partial capture."""
        receipts = [self.store.receipt(unit) for unit in self.units]
        return tuple(
            response for receipt in receipts if receipt is not None for response in receipt.facts.rejected
        )

    @property
    def digest(self) -> str:
        """The content digest; "" of a partial capture."""
        return "" if self.manifest is None else self.manifest.digest

    @property
    def lineage(self) -> Lineage:
        """The record of this capture in a child artifact."""
        return self.store.plan.lineage(self.digest)

    def check_inputs(self) -> None:
        """Hash the input files again; raises IncompatibleError naming a changed one."""
        check_inputs(self.plan, self.root.parent)

    # --- rows ---

    def pairs(self) -> Pairs:
        """Return all pairs as numbers of responses."""
        return self.rows.pairs

    def response_group(self) -> UInt64[np.ndarray, " responses"]:
        """Return the group of each response."""
        return np.asarray(self.rows.prompt_group[self.rows.response_prompt])

    @property
    def response_lengths(self) -> Int32[np.ndarray, " responses"]:
        """Tokens of each response."""
        return self.rows.response_length

    def token_ids(self, response: int) -> UInt32[np.ndarray, " r"]:
        """Return the token ids of a response."""
        return self.rows.response_ids(response)

    def present(self) -> Bool[np.ndarray, " responses"]:
        """Return which responses have vectors: those of existing units, without rejected ones."""
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
        self.require(layer, "response")
        for unit in self.units:
            yield self.unit_tokens(layer, unit, raw=raw)

    def unit_tokens(self, layer: int, unit: int, *, raw: bool = False) -> TokenBlock:
        """Return the response tokens of one unit; arguments and errors as of `iter_tokens`."""
        self.require(layer, "response")
        lengths = self.rows.lengths(unit)
        start = unit * self.plan.layout.tokens_per_unit
        path = f"layers/{layer}/tokens"
        values = read_rows(self._zarr, path, start, start + int(lengths.sum()), unit)
        if values.dtype == np.uint16 and not raw:
            values = bits.to_float32(values)
        return TokenBlock(unit, self.rows.span(unit), lengths, values)

    def tokens(self, layer: int, response: int) -> Float32[np.ndarray, "r d_in"]:
        """Return the residual stream on the tokens of one response.

        The array is a copy, so that keeping it does not keep its unit. Responses in rising order read each
        unit once; in any other order each may read a whole unit.

        Args:
            layer: one of the plan's.
            response: its number, from 0.

        Raises:
            UsageError: the layer or the tokens were not captured, or there is no such response.
            CorruptStoreError: a chunk is damaged; names the unit.

        """
        self.require(layer, "response")
        self.check_response(response)
        unit = self.rows.unit_of(response)
        if self._last_read is None or (self._last_read[0], self._last_read[1].unit) != (layer, unit):
            self._last_read = None  # the old unit goes before the new one comes
            self._last_read = layer, self.unit_tokens(layer, unit, raw=True)
        block = self._last_read[1]
        at = response - block.responses.start
        start = int(block.lengths[:at].sum())
        values = block.rows[start : start + int(block.lengths[at])]
        return bits.to_float32(values) if values.dtype == np.uint16 else values.copy()

    def iter_pooled(self, layer: int, name: str) -> Iterator[tuple[int, Float32[np.ndarray, "rows d_in"]]]:
        """Yield pooled vectors as first response and block, unit by unit.

        Args:
            layer: one of the plan's.
            name: `last` or `mean`.

        Raises:
            UsageError: the layer was not captured, or there is no such pooling.
            CorruptStoreError: a chunk is damaged; names the unit.

        """
        self.require(layer, "pooled")
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

    def require(self, layer: int, positions: str) -> None:
        """Raise UsageError unless the capture has this layer, and tokens if `positions` is `response`."""
        settings = self.plan.settings
        if layer not in settings.layers:
            shown = ", ".join(map(str, settings.layers))
            raise UsageError("--layer", f"one of {shown}", str(layer), f"or run `{COMMAND} --layer {layer}`")
        if positions == "response" and settings.positions != "response":
            hint = f"run `{COMMAND} --positions response --force`, or `{COMMAND} --sae SAE --force`"
            raise UsageError(str(self.root), "response tokens", "pooled vectors only", hint)

    def check_response(self, response: int) -> None:
        """Raise UsageError unless there is a response of this number."""
        check_response(response, self.plan.layout)
