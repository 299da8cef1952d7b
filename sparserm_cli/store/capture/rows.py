"""Read the rows of a capture: its tokens, prompts and pairs.

Axes: responses are numbered in store order (unit by unit, tree by tree); `tokens` counts all response tokens
in that order; prompts are numbered by first appearance.

The module `row_arrays` beside this one describes the arrays and writes them.
"""

from collections.abc import Iterator
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int32, Int64, UInt8, UInt32, UInt64

from sparserm_cli.errors import CorruptStoreError, UsageError
from sparserm_cli.store.arrays.checked_zarr import CheckedStore, read_rows
from sparserm_cli.store.capture.plan import Layout
from sparserm_cli.store.capture.row_arrays import TYPES, sizes

_WINDOW = 1 << 19
"""Number of elements of an array that stay in memory while it is read unit by unit."""


class TreeRows(NamedTuple):
    """One prompt with those of its responses that lie in one unit."""

    prompt: int
    """Number of the prompt."""
    first: int
    """Number of its first response in the unit; the others follow it."""
    prompt_ids: UInt32[np.ndarray, " p"]
    """Token ids of the prompt."""
    responses: tuple[UInt32[np.ndarray, " _"], ...]
    """Token ids of each response."""


class Pairs(NamedTuple):
    """All pairs, in the order of the input."""

    chosen: Int64[np.ndarray, " pairs"]
    """Numbers of the preferred responses."""
    rejected: Int64[np.ndarray, " pairs"]
    """Numbers of the other responses."""
    row: Int64[np.ndarray, " pairs"]
    """Rows of the input that the pairs come from, from 1."""


class Rows:
    """The rows of a planned capture; an array is read when it is first used.

    Args:
        store: the store of the capture.
        layout: the sizes of the capture.

    """

    def __init__(self, store: CheckedStore, layout: Layout) -> None:
        self._store, self._sizes, self.layout = store, sizes(layout), layout
        self._windows: dict[str, tuple[int, np.ndarray]] = {}

    def length(self, name: str) -> int:
        """Return the number of elements of an array."""
        return self._sizes[name]

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Return a part of an array, checked against its recorded length and type.

        Args:
            name: a name in `row_types`; an encoding has no token ids.
            start: index of the first element.
            stop: index after the last element; None for the end of the array.

        Raises:
            CorruptStoreError: the array is missing, damaged, or of another length or type.

        """
        stop = self._sizes[name] if stop is None else stop
        values = read_rows(self._store, f"rows/{name}", start, stop)
        if values.shape != (stop - start,) or values.dtype != TYPES[name]:
            where, found = f"{self._store.location}/rows/{name}", f"{values.shape} {values.dtype}"
            expected = f"({stop - start},) {TYPES[name]}"
            raise CorruptStoreError(where, expected, found, "run extract --force")
        return values

    def blocks(self, name: str) -> Iterator[np.ndarray]:
        """Yield a whole array in blocks; raises the errors of `read`."""
        length = self._sizes[name]
        for start in range(0, length, _WINDOW):
            yield self.read(name, start, min(start + _WINDOW, length))

    def part(self, name: str, start: int, stop: int) -> np.ndarray:
        """Return a part of an array as `read` does; consecutive parts need few reads."""
        begin, window = self._windows.get(name, (0, np.zeros(0)))
        if start < begin or stop > begin + len(window):
            end = min(max(stop, start + _WINDOW), self._sizes[name])
            begin, window = self._windows[name] = start, self.read(name, start, end)
        return window[start - begin : stop - begin]

    @cached_property
    def response_prompt(self) -> Int32[np.ndarray, " responses"]:
        """Number of the prompt of each response."""
        return self.read("response_prompt")

    @cached_property
    def response_length(self) -> Int32[np.ndarray, " responses"]:
        """Number of tokens of each response."""
        return self.read("response_length")

    @cached_property
    def response_characters(self) -> Int32[np.ndarray, " responses"]:
        """Number of characters of each response."""
        return self.read("response_characters")

    @cached_property
    def response_flags(self) -> UInt8[np.ndarray, " responses"]:
        """The bits STRADDLED and TRUNCATED of each response."""
        return self.read("response_flags")

    @cached_property
    def prompt_length(self) -> Int32[np.ndarray, " prompts"]:
        """Number of tokens of each prompt."""
        return self.read("prompt_length")

    @cached_property
    def prompt_group(self) -> UInt64[np.ndarray, " prompts"]:
        """Key of the group of each prompt."""
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
        """First response of each unit, then the number of responses."""
        return self.read("unit_response_start")

    @cached_property
    def response_offset(self) -> Int64[np.ndarray, " offsets"]:
        """Index of the first token of each response among all response tokens, then their number."""
        return _offsets(self.response_length)

    @cached_property
    def prompt_offset(self) -> Int64[np.ndarray, " offsets"]:
        """Index of the first token of each prompt among all prompt tokens, then their number."""
        return _offsets(self.prompt_length)

    def span(self, unit: int) -> range:
        """Return the numbers of the responses of a unit."""
        return range(int(self.unit_response_start[unit]), int(self.unit_response_start[unit + 1]))

    def unit_of(self, response: int) -> int:
        """Return the number of the unit that holds a response."""
        return int(np.searchsorted(self.unit_response_start, response, side="right")) - 1

    def lengths(self, unit: int) -> Int32[np.ndarray, " unit_responses"]:
        """Return the number of tokens of each response of a unit."""
        span = self.span(unit)
        return self.part("response_length", span.start, span.stop)

    def prompts(self, unit: int) -> Int32[np.ndarray, " unit_responses"]:
        """Return the number of the prompt of each response of a unit."""
        span = self.span(unit)
        return self.part("response_prompt", span.start, span.stop)

    @cached_property
    def unit_token_start(self) -> Int64[np.ndarray, " starts"]:
        """Index of the first token of each unit among all response tokens, then their number."""
        return _offsets([self.lengths(unit).sum(dtype=np.int64) for unit in range(self.layout.units)])

    @cached_property
    def _unit_prompt_start(self) -> Int64[np.ndarray, " units"]:
        """Index of the first token of the first prompt of each unit among all prompt tokens."""
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
        """Return the prompts of a unit with their responses, as token ids."""
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
        """Return the token ids of consecutive texts of the given lengths."""
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
