"""The rows of a capture: which tokens, whose prompt, which pairs. Written once by the planner, read by all.

Axes: responses are numbered in store order (unit by unit, tree by tree); `tokens` counts all response tokens
in that order; prompts are numbered by first appearance.

| array | type, shape | |
|---|---|---|
| rows/response_prompt | int32 [responses] | number of the prompt |
| rows/response_length | int32 [responses] | tokens |
| rows/response_characters | int32 [responses] | characters of the text |
| rows/response_flags | uint8 [responses] | 1: its first token straddles the prompt's end; 2: truncated |
| rows/response_ids | uint32 [tokens] | token ids, concatenated |
| rows/prompt_length | int32 [prompts] | tokens |
| rows/prompt_group | uint64 [prompts] | key of the prompt's text: what a split may not separate |
| rows/prompt_ids | uint32 [prompt tokens] | token ids, concatenated |
| rows/pair_chosen, rows/pair_rejected | int64 [pairs] | numbers of responses |
| rows/pair_row | int64 [pairs] | row of the input the pair comes from |
| rows/pair_margin | float64 [pairs] | how much better chosen is, NaN if unknown; only if the data say it |
| rows/unit_response_start | int64 [units + 1] | first response of each unit, and the end |
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int32, Int64, UInt8, UInt32, UInt64

from sparserm_cli.errors import CorruptStoreError, UsageError
from sparserm_cli.store.arrays.checked_zarr import (
    CheckedStore,
    create_array,
    open_array,
    read_rows,
    write_rows,
)
from sparserm_cli.store.capture.plan import Layout

ROW_TYPES: Mapping[str, str] = {
    "response_prompt": "int32",
    "response_length": "int32",
    "response_characters": "int32",
    "response_flags": "uint8",
    "response_ids": "uint32",
    "prompt_length": "int32",
    "prompt_group": "uint64",
    "prompt_ids": "uint32",
    "pair_chosen": "int64",
    "pair_rejected": "int64",
    "pair_row": "int64",
    "unit_response_start": "int64",
}
"""Array to type, of the arrays that every capture has."""
OPTIONAL_ROW_TYPES: Mapping[str, str] = {"pair_margin": "float64"}
"""Array to type, of the arrays that only some captures have."""
_TYPES = {**ROW_TYPES, **OPTIONAL_ROW_TYPES}
TOKEN_IDS = ("response_ids", "prompt_ids")
STRADDLED, TRUNCATED = 1, 2
CHUNK = 1 << 22
_WINDOW = 1 << 19
"""Numbers of an array kept at hand by those who go through it unit by unit."""


class TreeRows(NamedTuple):
    """One prompt with those of its responses that lie in one unit."""

    prompt: int
    """The prompt's number."""
    first: int
    """The number of its first response here; the others follow."""
    prompt_ids: UInt32[np.ndarray, " p"]
    """Token ids of the prompt."""
    responses: tuple[UInt32[np.ndarray, " _"], ...]
    """Token ids of each response."""


class Pairs(NamedTuple):
    """All pairs, in the order of the input."""

    chosen: Int64[np.ndarray, " pairs"]
    """Responses that were preferred."""
    rejected: Int64[np.ndarray, " pairs"]
    """Responses that were not."""
    row: Int64[np.ndarray, " pairs"]
    """Rows of the input, from 1."""


def row_types(layout: Layout) -> dict[str, str]:
    """Return the type of every rows array of a capture: margins are there only if a pair has one."""
    return {**ROW_TYPES, **(OPTIONAL_ROW_TYPES if layout.margins else {})}


def sizes(layout: Layout) -> dict[str, int]:
    """Return the length of every rows array."""
    kinds = {"response": layout.responses, "prompt": layout.prompts, "pair": layout.pairs}
    lengths = {name: kinds.get(name.partition("_")[0], 0) for name in row_types(layout)}
    return {
        **lengths,
        "response_ids": layout.response_tokens,
        "prompt_ids": layout.prompt_tokens,
        "unit_response_start": layout.units + 1,
    }


def write_array(store: CheckedStore, name: str, length: int, blocks: Iterable[np.ndarray]) -> None:
    """Write one rows array from blocks of any size, in whole chunks of 4 Mi elements.

    Args:
        store: the store that is being planned.
        name: as in `row_types`.
        length: of the array.
        blocks: together exactly `length` numbers.

    Raises:
        ValueError: the blocks are longer or shorter.

    """
    path, kind = f"rows/{name}", np.dtype(_TYPES[name])
    create_array(store, path, (length,), (min(length, CHUNK),), kind.type(0))
    array = open_array(store, path)
    chunk = np.empty(CHUNK, kind)
    start = count = 0
    for block in blocks:
        while len(block):
            piece = block[: CHUNK - count]
            block = block[len(piece) :]
            chunk[count : count + len(piece)] = piece
            count += len(piece)
            if count == CHUNK:
                write_rows(array, start, chunk)
                start, count = start + CHUNK, 0
    if count:
        write_rows(array, start, chunk[:count])
    if start + count != length:
        raise ValueError(f"{name} has {start + count} numbers, not {length}")


class Rows:
    """The rows of a planned capture, read when asked for.

    Args:
        store: the capture, for reading.
        layout: its sizes.

    """

    def __init__(self, store: CheckedStore, layout: Layout) -> None:
        self._store, self._sizes, self.layout = store, sizes(layout), layout
        self._windows: dict[str, tuple[int, np.ndarray]] = {}

    def length(self, name: str) -> int:
        """Return the length of an array."""
        return self._sizes[name]

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Return a part of an array, checked against its recorded length and type.

        Args:
            name: as in `row_types`; an encoding has no token ids.
            start: the first number wanted.
            stop: the end; None for all.

        Raises:
            CorruptStoreError: the array is missing, damaged, or of another length or type.

        """
        stop = self._sizes[name] if stop is None else stop
        values = read_rows(self._store, f"rows/{name}", start, stop)
        if values.shape != (stop - start,) or values.dtype != _TYPES[name]:
            where, found = f"{self._store.location}/rows/{name}", f"{values.shape} {values.dtype}"
            expected = f"({stop - start},) {_TYPES[name]}"
            raise CorruptStoreError(where, expected, found, "run extract --force")
        return values

    def blocks(self, name: str) -> Iterator[np.ndarray]:
        """Yield a whole array piece by piece; raises as `read`."""
        length = self._sizes[name]
        for start in range(0, length, _WINDOW):
            yield self.read(name, start, min(start + _WINDOW, length))

    def part(self, name: str, start: int, stop: int) -> np.ndarray:
        """Return a part of an array as `read` does; parts that follow one another cost few reads."""
        begin, window = self._windows.get(name, (0, np.zeros(0)))
        if start < begin or stop > begin + len(window):
            end = min(max(stop, start + _WINDOW), self._sizes[name])
            begin, window = self._windows[name] = start, self.read(name, start, end)
        return window[start - begin : stop - begin]

    @cached_property
    def response_prompt(self) -> Int32[np.ndarray, " responses"]:
        """The prompt of each response."""
        return self.read("response_prompt")

    @cached_property
    def response_length(self) -> Int32[np.ndarray, " responses"]:
        """Tokens of each response."""
        return self.read("response_length")

    @cached_property
    def response_characters(self) -> Int32[np.ndarray, " responses"]:
        """Characters of each response."""
        return self.read("response_characters")

    @cached_property
    def response_flags(self) -> UInt8[np.ndarray, " responses"]:
        """Bits STRADDLED and TRUNCATED of each response."""
        return self.read("response_flags")

    @cached_property
    def prompt_length(self) -> Int32[np.ndarray, " prompts"]:
        """Tokens of each prompt."""
        return self.read("prompt_length")

    @cached_property
    def prompt_group(self) -> UInt64[np.ndarray, " prompts"]:
        """The group of each prompt."""
        return self.read("prompt_group")

    @cached_property
    def pairs(self) -> Pairs:
        """All pairs."""
        return Pairs(self.read("pair_chosen"), self.read("pair_rejected"), self.read("pair_row"))

    @cached_property
    def pair_margin(self) -> Float64[np.ndarray, " pairs"]:
        """How much better the chosen response of each pair is, in the unit of the data; NaN if unknown."""
        if not self.layout.margins:
            return np.full(self.layout.pairs, np.nan)
        return self.read("pair_margin")

    @cached_property
    def unit_response_start(self) -> Int64[np.ndarray, " starts"]:
        """The first response of each unit, and the end."""
        return self.read("unit_response_start")

    @cached_property
    def response_offset(self) -> Int64[np.ndarray, " offsets"]:
        """Where the tokens of each response begin among all response tokens, and the end."""
        return _offsets(self.response_length)

    @cached_property
    def prompt_offset(self) -> Int64[np.ndarray, " offsets"]:
        """Where the tokens of each prompt begin among all prompt tokens, and the end."""
        return _offsets(self.prompt_length)

    def span(self, unit: int) -> range:
        """Return the responses of a unit."""
        return range(int(self.unit_response_start[unit]), int(self.unit_response_start[unit + 1]))

    def unit_of(self, response: int) -> int:
        """Return the unit that holds a response."""
        return int(np.searchsorted(self.unit_response_start, response, side="right")) - 1

    def lengths(self, unit: int) -> Int32[np.ndarray, " unit_responses"]:
        """Return the tokens of each response of a unit."""
        span = self.span(unit)
        return self.part("response_length", span.start, span.stop)

    def prompts(self, unit: int) -> Int32[np.ndarray, " unit_responses"]:
        """Return the prompt of each response of a unit."""
        span = self.span(unit)
        return self.part("response_prompt", span.start, span.stop)

    @cached_property
    def unit_token_start(self) -> Int64[np.ndarray, " starts"]:
        """Where the tokens of each unit begin among all response tokens, and the end."""
        return _offsets([self.lengths(unit).sum(dtype=np.int64) for unit in range(self.layout.units)])

    @cached_property
    def _unit_prompt_start(self) -> Int64[np.ndarray, " units"]:
        """Where the tokens of the first prompt of each unit begin among all prompt tokens."""
        firsts = [0, *(int(self.prompts(unit)[0]) for unit in range(self.layout.units))]
        between = (self.part("prompt_length", low, high) for low, high in pairwise(firsts))
        return _offsets([lengths.sum(dtype=np.int64) for lengths in between])[1:]

    def response_ids(self, response: int) -> UInt32[np.ndarray, " r"]:
        """Return the token ids of a response."""
        return self.read("response_ids", *map(int, self.response_offset[response : response + 2]))

    def prompt_ids(self, prompt: int) -> UInt32[np.ndarray, " p"]:
        """Return the token ids of a prompt."""
        return self.read("prompt_ids", *map(int, self.prompt_offset[prompt : prompt + 2]))

    def trees(self, unit: int) -> list[TreeRows]:
        """Return what a unit is computed from."""
        span, prompts = self.span(unit), self.prompts(unit)
        responses = self._split("response_ids", int(self.unit_token_start[unit]), self.lengths(unit))
        low, high = int(prompts[0]), int(prompts[-1]) + 1
        lengths = self.part("prompt_length", low, high)
        prompt_ids = self._split("prompt_ids", int(self._unit_prompt_start[unit]), lengths)
        starts = np.concatenate([[0], np.flatnonzero(np.diff(prompts)) + 1, [len(prompts)]])
        return [
            TreeRows(
                int(prompts[a]), span.start + int(a), prompt_ids[int(prompts[a]) - low], tuple(responses[a:b])
            )
            for a, b in pairwise(starts)
        ]

    def _split(
        self, name: str, start: int, lengths: Int32[np.ndarray, " n"]
    ) -> list[UInt32[np.ndarray, " _"]]:
        """Return the token ids of texts of some lengths that lie behind one another."""
        ends = np.cumsum(lengths, dtype=np.int64)
        return np.split(self.part(name, start, start + int(ends[-1])), ends[:-1])


def _offsets(lengths: Int32[np.ndarray, " n"] | list[np.int64]) -> Int64[np.ndarray, " offsets"]:
    """Return the cumulative sums of lengths, from 0."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])


def check_response(response: int, layout: Layout) -> None:
    """Raise UsageError unless there is a response of this number."""
    if not 0 <= response < layout.responses:
        raise UsageError(
            "response", f"a number from 0 to {layout.responses - 1}", str(response), "correct it"
        )
