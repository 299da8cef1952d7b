"""Collecting prompts, responses and pairs, and writing them as the plan of a capture.

Reads: token ids, one response at a time. Writes: `activations.zarr/` with its rows arrays, the metadata of
its arrays with their final shapes, rejects.jsonl and plan.json, by one rename. Memory: a few blocks of rows,
whatever their number, since rows are collected and sorted on the disk (see `external_sort`).

Prompts or responses with equal tokens are stored once. They count as equal if their 128-bit BLAKE2 digests
agree; among a billion different ones, a false agreement is less likely than 1 in 10^20.
"""

import hashlib
import json
import math
import struct
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from jaxtyping import Int64, UInt32

from sparserm_cli.errors import BadInputError
from sparserm_cli.store.arrays.checked_zarr import SafeStore
from sparserm_cli.store.arrays.external_sort import DiskTable
from sparserm_cli.store.capture.layout import create_arrays, cut_units, freeze
from sparserm_cli.store.capture.plan import ExtractPlan, ExtractSettings, Layout
from sparserm_cli.store.capture.row_arrays import STRADDLED, TRUNCATED, sizes, write_array
from sparserm_cli.store.capture.spool import Spool, distinct
from sparserm_cli.store.io.atomic import atomic_folder
from sparserm_cli.store.io.fault_points import fault_point
from sparserm_cli.store.io.storage import storage_of
from sparserm_cli.store.units.records import REJECTS
from sparserm_cli.store.units.unit_store import INNER, PLAN

_PAIR = struct.Struct("<qqqd")


class _Order(NamedTuple):
    """The distinct rows that are kept, and their order."""

    prompts: DiskTable
    """Position of the first occurrence of each distinct prompt."""
    responses: DiskTable
    """Prompt of each distinct response, and position of its first occurrence."""
    pairs: DiskTable
    """Pairs of distinct responses, by number, in order of arrival."""
    unit_start: Int64[np.ndarray, " starts"]
    """First response of each unit, and the number of responses at the end."""
    unit_tokens: Int64[np.ndarray, " units"]
    """Number of response tokens of each unit."""


class PlanWriter:
    """Collects the prompts, responses and pairs of a capture; `freeze` writes the plan.

    Args:
        root: path of the capture, `RUN/activations.zarr`.
        settings: settings that determine its content.

    """

    def __init__(self, root: PurePath, settings: ExtractSettings) -> None:
        self.root, self.settings = root, settings
        self._spool = Spool(storage_of(root.with_name(f"{root.name}.spool")).part_name())
        self._prompt_key = b""

    def __enter__(self) -> Self:
        """Create the temporary tables."""
        self._spool.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the temporary tables."""
        self._spool.__exit__(kind, error, trace)

    def add(
        self,
        prompt_ids: UInt32[np.ndarray, " p"],
        response_ids: UInt32[np.ndarray, " r"],
        *,
        group: int,
        characters: int = 0,
        straddled: bool = False,
        truncated: bool = False,
    ) -> int:
        """Add a response; of several with equal prompt and tokens, the first is kept.

        Args:
            prompt_ids: token ids of the prompt.
            response_ids: token ids of the response, at least one.
            group: 64-bit key of the prompt's text.
            characters: number of characters of the response's text.
            straddled: whether the first token of the response begins in the prompt.
            truncated: whether the prompt was truncated.

        Returns:
            the number of the response, for `add_pair`.

        """
        if not len(response_ids):
            raise ValueError("a response has at least one token")
        self._add_prompt(np.asarray(prompt_ids, "<u4").tobytes(), group)
        ids = np.asarray(response_ids, "<u4").tobytes()
        key = hashlib.blake2b(ids, digest_size=16, key=self._prompt_key).digest()
        flags = STRADDLED * straddled | TRUNCATED * truncated
        responses = self._spool.responses
        responses.add(key, ids, len(self._spool.prompts) - 1, characters, flags)
        return len(responses) - 1

    def _add_prompt(self, ids: bytes, group: int) -> None:
        """Add a prompt unless it equals the prompt of the previous response."""
        key = hashlib.blake2b(ids, digest_size=16).digest()
        if key != self._prompt_key:
            self._spool.prompts.add(key, ids, group)
            self._prompt_key = key

    def add_pair(self, chosen: int, rejected: int, row: int, margin: float | None = None) -> None:
        """Add a pair of two numbers that `add` returned, from row `row` of the input.

        The margin is how much better the chosen response is; None if the data do not say it.

        A pair of equal responses carries no information and is left out; so is, with `dedupe`, a repeated
        pair.
        """
        self._spool.pairs.append(_PAIR.pack(chosen, rejected, row, math.nan if margin is None else margin))

    def reject(self, record: Mapping[str, Any]) -> None:
        """Record an input row that was not accepted, and the reason."""
        line = json.dumps(dict(record), ensure_ascii=True, allow_nan=False) + "\n"
        self._spool.rejects.append(line.encode("ascii"))

    def freeze(self, counts: Mapping[str, int]) -> ExtractPlan:
        """Write the plan; after this the capture exists, with all units pending.

        Args:
            counts: numbers of rows read, accepted and rejected, and further counts.

        Raises:
            BadInputError: no response was added.
            ResourceError: the disk is full.

        """
        if not len(self._spool.responses):
            where = ", ".join(recorded.path for recorded in self.settings.inputs) or "the input"
            hint = "see rejects, or name another file"
            raise BadInputError(where, "at least one response", "no rows", hint)
        order = self._order()
        plan = ExtractPlan(self.settings, self._layout(order), dict(counts))
        with atomic_folder(self.root, plan.layout.response_tokens * 4, sealed_by=PLAN) as part:
            store = SafeStore(part, sync=False)
            create_arrays(store, plan)
            self._write_rows(store, order, plan.layout)
            fault_point("plan-rows-written")
            storage_of(part / INNER).make_folder()
            self._spool.rejects.copy(part / REJECTS)
            frozen = freeze(part, plan, plan.settings.identity())
            self._spool.remove()
            fault_point("plan-before-rename")
        fault_point("plan-renamed")
        return ExtractPlan(plan.settings, plan.layout, plan.counts, frozen.plan_hash)

    def _order(self) -> _Order:
        """Order distinct rows by first occurrence of the prompt, then of the response."""
        spool = self._spool
        prompts, number = distinct(spool, spool.prompts.records, lambda block: (block["key"], 0))
        responses, number = distinct(
            spool, spool.responses.records, lambda block: (block["key"], number.at(block["prompt"]))
        )
        return _Order(prompts, responses, self._pairs(number), *self._units(responses))

    def _pairs(self, number: DiskTable) -> DiskTable:
        """Return the pairs that are kept, given the number in the store of each added response."""
        kept = self._spool.table(self._spool.pairs.kind)
        for block in self._spool.pairs.blocks():
            chosen, rejected = (number.at(block[side]) for side in ("chosen", "rejected"))
            differ = chosen != rejected
            kept.add(chosen[differ], rejected[differ], block["row"][differ], block["margin"][differ])
        if not self.settings.dedupe:
            return kept
        firsts, _ = distinct(self._spool, kept, lambda block: (_pair_keys(block), 0))
        return self._spool.table(kept.kind).extend(kept.at(block["position"]) for block in firsts.blocks())

    def _units(
        self, responses: DiskTable
    ) -> tuple[Int64[np.ndarray, " starts"], Int64[np.ndarray, " units"]]:
        """Cut the responses into units; return the first response and the number of tokens of each.

        The last unit of a block may continue in the next block, so its responses are cut again there.
        """
        starts, tokens = [0], list[int]()
        lengths, prompts = np.zeros(0, np.int64), np.zeros(0, np.int64)
        for block in responses.blocks():
            length = self._spool.responses.records.at(block["position"])["length"]
            lengths, prompts = np.append(lengths, length), np.append(prompts, block["tree"].astype(np.int64))
            cuts = cut_units(lengths, prompts, self.settings.token_cap, self.settings.response_cap)
            starts += (starts[-1] + cuts[1:-1]).tolist()
            tokens += np.add.reduceat(lengths, cuts[:-1])[:-1].tolist()
            lengths, prompts = lengths[cuts[-2] :], prompts[cuts[-2] :]
        return np.array([*starts, len(responses)]), np.array([*tokens, lengths.sum()])

    def _layout(self, order: _Order) -> Layout:
        """Return the sizes of the capture."""
        prompt_lengths = self._spool.prompts.column(order.prompts, "length")
        return Layout(
            units=len(order.unit_tokens),
            responses_per_unit=int(np.diff(order.unit_start).max()),
            tokens_per_unit=int(order.unit_tokens.max()),
            responses=len(order.responses),
            prompts=len(order.prompts),
            pairs=len(order.pairs),
            response_tokens=int(order.unit_tokens.sum()),
            margins=sum(int((~np.isnan(block["margin"])).sum()) for block in order.pairs.blocks()),
            prompt_tokens=sum(int(block.sum(dtype=np.int64)) for block in prompt_lengths),
        )

    def _write_rows(self, store: SafeStore, order: _Order, layout: Layout) -> None:
        """Write the rows arrays in store order, in turn."""
        prompts, responses, pairs = self._spool.prompts, self._spool.responses, order.pairs
        columns: dict[str, Iterable[np.ndarray]] = {
            "response_prompt": (block["tree"] for block in order.responses.blocks()),
            "response_length": responses.column(order.responses, "length"),
            "response_characters": responses.column(order.responses, "characters"),
            "response_flags": responses.column(order.responses, "flags"),
            "response_ids": responses.token_ids(order.responses),
            "prompt_length": prompts.column(order.prompts, "length"),
            "prompt_group": prompts.column(order.prompts, "group"),
            "prompt_ids": prompts.token_ids(order.prompts),
            "pair_chosen": (block["chosen"] for block in pairs.blocks()),
            "pair_rejected": (block["rejected"] for block in pairs.blocks()),
            "pair_row": (block["row"] for block in pairs.blocks()),
            "pair_margin": (block["margin"] for block in pairs.blocks()),
            "unit_response_start": [order.unit_start],
        }
        lengths = sizes(layout)
        for name, length in lengths.items():
            write_array(store, name, length, columns[name])


def _pair_keys(block: np.ndarray) -> np.ndarray:
    """Return the two responses of each pair as one key of 16 bytes."""
    return np.stack([block["chosen"], block["rejected"]], axis=1).astype(">i8").view("S16")[:, 0]
