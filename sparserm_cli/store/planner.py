"""Collecting prompts, responses and pairs as they come, and freezing them as a plan.

Reads: token ids, one response at a time. Writes: `activations.zarr/` with its rows arrays, the metadata of
its arrays at their final shape, rejects.jsonl and plan.json, by one rename. Memory: about 200 bytes a
response; token ids wait in a spool on the disk, since the responses of a prompt may come far apart but lie in
one tree.
"""

import hashlib
import json
import shutil
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from jaxtyping import Int64, UInt32

from sparserm_cli.errors import BadInputError
from sparserm_cli.store.disk import part_name
from sparserm_cli.store.files import building_folder, disk_errors, fault_point, make_folder, write_atomic
from sparserm_cli.store.layout import create_arrays, cut_units, freeze
from sparserm_cli.store.plan import ExtractPlan, ExtractSettings, Layout
from sparserm_cli.store.receipts import REJECTS
from sparserm_cli.store.rows import STRADDLED, TRUNCATED, write_array
from sparserm_cli.store.units import INNER
from sparserm_cli.store.zarrs import SafeStore

_BUFFER = 1 << 20


class PlanWriter:
    """Collects what shall be computed; `freeze` writes the plan.

    Args:
        root: where the capture shall lie, `RUN/activations.zarr`.
        settings: what decides its content.

    """

    def __init__(self, root: Path, settings: ExtractSettings) -> None:
        self.root, self.settings = root, settings
        self._folder = part_name(root.with_name(f"{root.name}.spool"))
        self._seen: dict[bytes, int] = {}
        self._prompts: dict[bytes, int] = {}
        self._response_prompt, self._length, self._characters = array("i"), array("i"), array("i")
        self._flags, self._offset = array("B"), array("q")
        self._prompt_length, self._group = array("i"), array("Q")
        self._pairs = array("q")

    def __enter__(self) -> Self:
        """Open the spool."""
        make_folder(self._folder)
        self._files: dict[str, BinaryIO] = {
            name: (self._folder / name).open("wb", buffering=_BUFFER)
            for name in ("responses", "prompts", "rejects")
        }
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the spool."""
        for file in self._files.values():
            if not file.closed:
                # A full disk makes the flush fail; what was to be said of it has been said.
                file.raw.close() if error is not None else file.close()  # type: ignore[attr-defined]
        shutil.rmtree(self._folder, ignore_errors=True)

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
        """Add a response unless it is there already.

        Args:
            prompt_ids: token ids of the prompt.
            response_ids: token ids of the response, at least one.
            group: the key of the prompt's text, 64 bits.
            characters: of the response's text.
            straddled: whether its first token begins in the prompt.
            truncated: whether the prompt was cut.

        Returns:
            the handle of the response for `add_pair`; equal tokens give the same handle.

        """
        if not len(response_ids):
            raise ValueError("a response has at least one token")
        prompt = self._prompt(prompt_ids, group)
        key = hashlib.blake2b(
            response_ids.tobytes(), digest_size=16, key=prompt.to_bytes(8, "little")
        ).digest()
        if key in self._seen:
            return self._seen[key]
        self._seen[key] = handle = len(self._length)
        self._offset.append(self._offset[-1] + self._length[-1] if handle else 0)
        self._response_prompt.append(prompt)
        self._length.append(len(response_ids))
        self._characters.append(characters)
        self._flags.append(STRADDLED * straddled | TRUNCATED * truncated)
        self._spool("responses", response_ids.astype("<u4").tobytes())
        return handle

    def _prompt(self, ids: UInt32[np.ndarray, " p"], group: int) -> int:
        """Return the number of a prompt, adding it if it is new."""
        key = hashlib.blake2b(ids.tobytes(), digest_size=16).digest()
        number = self._prompts.setdefault(key, len(self._prompts))
        if number == len(self._prompt_length):
            self._prompt_length.append(len(ids))
            self._group.append(group)
            self._spool("prompts", ids.astype("<u4").tobytes())
        return number

    def add_pair(self, chosen: int, rejected: int, row: int) -> None:
        """Add a pair of two handles, from row `row` of the input."""
        self._pairs.extend((chosen, rejected, row))

    def reject(self, record: Mapping[str, Any]) -> None:
        """Note an input row that was not accepted, and why."""
        line = json.dumps(dict(record), ensure_ascii=True, allow_nan=False) + "\n"
        self._spool("rejects", line.encode("ascii"))

    def _spool(self, name: str, data: bytes) -> None:
        """Append to a file of the spool."""
        with disk_errors(self._folder, len(data)):
            fault_point("plan-spool")
            self._files[name].write(data)

    # --- layout ---

    def plan(self, counts: Mapping[str, int]) -> ExtractPlan:
        """Return the plan as it would be frozen now, without writing anything.

        Args:
            counts: rows read, accepted, rejected, and whatever else was counted.

        Raises:
            BadInputError: no response was added.

        """
        if not self._length:
            where = ", ".join(one.path for one in self.settings.inputs) or "the input"
            raise BadInputError(
                where, "at least one response", "no rows", "see rejects, or name another file"
            )
        order = self._order()
        lengths = np.frombuffer(self._length, np.int32)[order]
        start = self._starts(order)
        tokens = np.add.reduceat(lengths.astype(np.int64), start[:-1])
        layout = Layout(
            units=len(start) - 1,
            responses_per_unit=int(np.diff(start).max()),
            tokens_per_unit=int(tokens.max()),
            responses=len(lengths),
            prompts=len(self._prompt_length),
            pairs=len(self._pairs) // 3,
            response_tokens=int(tokens.sum()),
            prompt_tokens=sum(self._prompt_length),
        )
        return ExtractPlan(self.settings, layout, dict(counts))

    def _order(self) -> Int64[np.ndarray, " responses"]:
        """Return the handles in store order: by first appearance of the prompt, then of the response."""
        return np.argsort(np.frombuffer(self._response_prompt, np.int32), kind="stable").astype(np.int64)

    def _starts(self, order: Int64[np.ndarray, " responses"]) -> Int64[np.ndarray, " starts"]:
        """Return the first response of each unit, in store order, and the end."""
        lengths = np.frombuffer(self._length, np.int32)[order]
        prompts = np.frombuffer(self._response_prompt, np.int32)[order]
        return cut_units(lengths, prompts, self.settings.token_cap, self.settings.response_cap)

    # --- freeze ---

    def freeze(self, counts: Mapping[str, int]) -> ExtractPlan:
        """Write the plan; after this the capture is there, without any unit done.

        Args:
            counts: as for `plan`.

        Raises:
            BadInputError: no response was added.
            ResourceError: the disk is full.

        """
        plan = self.plan(counts)
        with disk_errors(self._folder, 0):
            for file in self._files.values():
                file.close()
        with building_folder(self.root, plan.layout.response_tokens * 4) as part:
            store = SafeStore(part, sync=False)
            create_arrays(store, plan)
            self._write_rows(store, plan)
            fault_point("plan-rows-written")
            make_folder(part / INNER)
            write_atomic(part / REJECTS, (self._folder / "rejects").read_bytes())
            frozen = freeze(part, plan, plan.settings.identity())
            shutil.rmtree(self._folder)
            fault_point("plan-before-rename")
        fault_point("plan-renamed")
        return ExtractPlan(plan.settings, plan.layout, plan.counts, frozen.plan_hash)

    def _write_rows(self, store: SafeStore, plan: ExtractPlan) -> None:
        """Write the rows arrays in store order."""
        order = self._order()
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        pairs = np.frombuffer(self._pairs, np.int64).reshape(-1, 3)
        small = {
            "response_prompt": np.frombuffer(self._response_prompt, np.int32)[order],
            "response_length": np.frombuffer(self._length, np.int32)[order],
            "response_characters": np.frombuffer(self._characters, np.int32)[order],
            "response_flags": np.frombuffer(self._flags, np.uint8)[order],
            "prompt_length": np.frombuffer(self._prompt_length, np.int32),
            "prompt_group": np.frombuffer(self._group, np.uint64),
            "pair_chosen": place[pairs[:, 0]],
            "pair_rejected": place[pairs[:, 1]],
            "pair_row": pairs[:, 2],
            "unit_response_start": self._starts(order),
        }
        for name, values in small.items():
            write_array(store, name, len(values), [values])
        responses = np.memmap(self._folder / "responses", "<u4", "r")
        write_array(store, "response_ids", plan.layout.response_tokens, self._in_order(responses, order))
        prompts = (
            np.memmap(self._folder / "prompts", "<u4", "r") if plan.layout.prompt_tokens else np.empty(0)
        )
        write_array(store, "prompt_ids", plan.layout.prompt_tokens, [prompts])

    def _in_order(self, spool: np.ndarray, order: Int64[np.ndarray, " responses"]) -> Iterator[np.ndarray]:
        """Yield the token ids of each response in store order."""
        for handle in order:
            yield spool[self._offset[handle] : self._offset[handle] + self._length[handle]]
