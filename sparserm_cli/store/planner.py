"""Collecting prompts, responses and pairs as they come, and freezing them as a plan.

Reads: token ids, one response at a time. Writes: `activations.zarr/` with its rows arrays, the metadata of
its arrays at their final shape, rejects.jsonl and plan.json, by one rename. Memory: none that grows while
responses come, since they wait on the disk; then about 50 bytes a response, to find equal ones and the order.

Prompts and responses of equal tokens are one. Equal is what has equal 128-bit BLAKE2 digests: that two of a
billion different ones have is less likely than 1 in 10^20.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import PurePath
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from jaxtyping import Int32, Int64, Integer, UInt32

from sparserm_cli.errors import BadInputError
from sparserm_cli.store.files import building_folder, fault_point, make_folder, write_atomic
from sparserm_cli.store.layout import create_arrays, cut_units, freeze
from sparserm_cli.store.places import part_name
from sparserm_cli.store.plan import ExtractPlan, ExtractSettings, Layout
from sparserm_cli.store.receipts import REJECTS
from sparserm_cli.store.rows import STRADDLED, TRUNCATED, Pairs, write_array
from sparserm_cli.store.spool import PAIR, PROMPT, RESPONSE, Spool, distinct
from sparserm_cli.store.units import INNER, PLAN
from sparserm_cli.store.zarrs import SafeStore


class _Order(NamedTuple):
    """What is kept of all that came, and in which order.

    Axes: `responses` and `prompts` are the different ones, in store order.
    """

    responses: Integer[np.ndarray, " responses"]
    """Place of each response in the spool, where it came first."""
    prompts: Integer[np.ndarray, " prompts"]
    """Place of each prompt in the spool, where it came first."""
    response_prompt: Int32[np.ndarray, " responses"]
    """The prompt of each response."""
    response_length: Int32[np.ndarray, " responses"]
    """Tokens of each response."""
    unit_start: Int64[np.ndarray, " starts"]
    """The first response of each unit, and the end."""
    pairs: Pairs
    """Pairs of different responses, in the order they came in."""


class PlanWriter:
    """Collects what shall be computed; `freeze` writes the plan.

    Args:
        root: where the capture shall lie, `RUN/activations.zarr`.
        settings: what decides its content.

    """

    def __init__(self, root: PurePath, settings: ExtractSettings) -> None:
        self.root, self.settings = root, settings
        self._spool = Spool(part_name(root.with_name(f"{root.name}.spool")))
        self._prompts = self._responses = 0
        self._prompt_key = b""

    def __enter__(self) -> Self:
        """Open the spool."""
        self._spool.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the spool."""
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
        """Add a response; of those with equal prompt and tokens the first is kept.

        Args:
            prompt_ids: token ids of the prompt.
            response_ids: token ids of the response, at least one.
            group: the key of the prompt's text, 64 bits.
            characters: of the response's text.
            straddled: whether its first token begins in the prompt.
            truncated: whether the prompt was cut.

        Returns:
            the handle of the response for `add_pair`.

        """
        if not len(response_ids):
            raise ValueError("a response has at least one token")
        self._add_prompt(np.asarray(prompt_ids, "<u4").tobytes(), group)
        ids = np.asarray(response_ids, "<u4").tobytes()
        key = hashlib.blake2b(ids, digest_size=16, key=self._prompt_key).digest()
        flags = STRADDLED * straddled | TRUNCATED * truncated
        record = RESPONSE.pack(key, self._prompts - 1, len(response_ids), characters, flags)
        self._spool.append("responses", record)
        self._spool.append("responses.ids", ids)
        self._responses += 1
        return self._responses - 1

    def _add_prompt(self, ids: bytes, group: int) -> None:
        """Add a prompt unless it is that of the response before."""
        key = hashlib.blake2b(ids, digest_size=16).digest()
        if key != self._prompt_key:
            self._spool.append("prompts", PROMPT.pack(key, len(ids) // 4, group))
            self._spool.append("prompts.ids", ids)
            self._prompts += 1
            self._prompt_key = key

    def add_pair(self, chosen: int, rejected: int, row: int) -> None:
        """Add a pair of two handles, from row `row` of the input.

        One of equal responses says nothing and is left out; so is one that came before, with `dedupe`.
        """
        self._spool.append("pairs", PAIR.pack(chosen, rejected, row))

    def reject(self, record: Mapping[str, Any]) -> None:
        """Note an input row that was not accepted, and why."""
        line = json.dumps(dict(record), ensure_ascii=True, allow_nan=False) + "\n"
        self._spool.append("rejects", line.encode("ascii"))

    def freeze(self, counts: Mapping[str, int]) -> ExtractPlan:
        """Write the plan; after this the capture is there, without any unit done.

        Args:
            counts: rows read, accepted, rejected, and whatever else was counted.

        Raises:
            BadInputError: no response was added.
            ResourceError: the disk is full.

        """
        if not self._responses:
            where = ", ".join(one.path for one in self.settings.inputs) or "the input"
            hint = "see rejects, or name another file"
            raise BadInputError(where, "at least one response", "no rows", hint)
        self._spool.finish()
        order = self._order()
        plan = ExtractPlan(self.settings, self._layout(order), dict(counts))
        with building_folder(self.root, plan.layout.response_tokens * 4, sealed_by=PLAN) as part:
            store = SafeStore(part, sync=False)
            create_arrays(store, plan)
            self._write_rows(store, order, plan.layout)
            fault_point("plan-rows-written")
            make_folder(part / INNER)
            write_atomic(part / REJECTS, self._spool.bytes("rejects"))
            frozen = freeze(part, plan, plan.settings.identity())
            self._spool.remove()
            fault_point("plan-before-rename")
        fault_point("plan-renamed")
        return ExtractPlan(plan.settings, plan.layout, plan.counts, frozen.plan_hash)

    def _order(self) -> _Order:
        """Put what is different in store order: by first appearance of the prompt, then of the response."""
        prompts, prompt_number = distinct(self._spool.column("prompts", "key"))
        responses, number = distinct(self._spool.column("responses", "key"))
        prompt = prompt_number[self._spool.column("responses", "prompt")[responses]].astype(
            np.int32, copy=False
        )
        by_prompt = np.argsort(prompt, kind="stable").astype(responses.dtype)
        responses, prompt = responses[by_prompt], prompt[by_prompt]
        lengths = self._spool.column("responses", "length")[responses]
        starts = cut_units(lengths, prompt, self.settings.token_cap, self.settings.response_cap)
        place = np.empty_like(by_prompt)
        place[by_prompt] = np.arange(len(place))
        return _Order(responses, prompts, prompt, lengths, starts, self._pairs(place[number]))

    def _pairs(self, place: Integer[np.ndarray, " added"]) -> Pairs:
        """Return the pairs that are kept, given the number in the store of each response that was added."""
        sides = (place[self._spool.column("pairs", side)] for side in ("chosen", "rejected"))
        chosen, rejected = (one.astype(np.int64) for one in sides)
        kept = chosen != rejected
        if self.settings.dedupe:
            _, first = np.unique(chosen * len(place) + rejected, return_index=True)
            kept &= np.isin(np.arange(len(kept)), first)
        return Pairs(chosen[kept], rejected[kept], self._spool.column("pairs", "row")[kept])

    def _layout(self, order: _Order) -> Layout:
        """Return the sizes of everything."""
        tokens = np.add.reduceat(order.response_length.astype(np.int64), order.unit_start[:-1])
        prompt_tokens = self._spool.column("prompts", "length")[order.prompts]
        return Layout(
            units=len(tokens),
            responses_per_unit=int(np.diff(order.unit_start).max()),
            tokens_per_unit=int(tokens.max()),
            responses=len(order.responses),
            prompts=len(order.prompts),
            pairs=len(order.pairs.row),
            response_tokens=int(tokens.sum()),
            prompt_tokens=int(prompt_tokens.sum(dtype=np.int64)),
        )

    def _write_rows(self, store: SafeStore, order: _Order, layout: Layout) -> None:
        """Write the rows arrays in store order, one after another, since each may be large."""
        known = {
            "response_prompt": order.response_prompt,
            "response_length": order.response_length,
            "pair_chosen": order.pairs.chosen,
            "pair_rejected": order.pairs.rejected,
            "pair_row": order.pairs.row,
            "unit_response_start": order.unit_start,
        }
        for name, values in known.items():
            write_array(store, name, len(values), [values])
        for field in ("characters", "flags"):
            values = self._spool.column("responses", field)[order.responses]
            write_array(store, f"response_{field}", len(values), [values])
        for field in ("length", "group"):
            values = self._spool.column("prompts", field)[order.prompts]
            write_array(store, f"prompt_{field}", len(values), [values])
        responses = self._spool.token_ids("responses", order.responses)
        write_array(store, "response_ids", layout.response_tokens, responses)
        prompts = self._spool.token_ids("prompts", order.prompts)
        write_array(store, "prompt_ids", layout.prompt_tokens, prompts)
