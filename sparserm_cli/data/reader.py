"""The one public way into data: `Reader` yields examples and keeps count of what it read and refused.

Reads: a file or a data set of the hub (`files.open_source`). Memory: one row, plus the first refused rows,
plus, of purpose "pairs" alone, 8 bytes a pair for counting duplicates. accepted + rejected == read at every
moment.
"""

import json
from array import array
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import xxhash

from sparserm_cli.data.example import CHOSEN, REJECTED, Example, InputFile, Message, RawRow, Reject, RowError
from sparserm_cli.data.shapes import Purpose, Shape, example_of, recognise
from sparserm_cli.data.sources.open import open_source
from sparserm_cli.data.sources.strict_json import EXCERPT_CHARACTERS, kind_of
from sparserm_cli.errors import BadInputError

__all__ = ["Example", "InputFile", "Message", "Reader", "Reject"]

OnBadRow = Literal["error", "reject"]
KEPT_REJECTS = 100


class Reader:
    """The rows of one source as examples; iterate once, the counters hold afterwards.

    Args:
        source: a file, or `owner/name[:config][@revision]` of a Hugging Face data set.
        purpose: "pairs" needs rows that say which responses are better; "responses" takes those too, without
            regard to sides; "any" takes all and keeps the sides of those that have them.
        columns: canonical column name -> name in the file, such as `{"prompt": "question"}`.
        split: split of a data set.
        limit: read at most so many rows.
        after: number of the last row that is read and counted, but not yielded.
        on_bad_row: raise on the first bad row, or reject bad rows and go on.
        offline: never call out.
        sink: called with each refused row; without one the first 100 are kept in `rejects`.

    Raises:
        BadInputError: no such file; while iterating, a bad row or no rows at all.

    """

    def __init__(
        self,
        source: str | Path,
        *,
        purpose: Purpose,
        columns: Mapping[str, str] | None = None,
        split: str = "train",
        limit: int | None = None,
        after: int = 0,
        on_bad_row: OnBadRow = "error",
        offline: bool = False,
        sink: Callable[[Reject], None] | None = None,
    ) -> None:
        self._source = open_source(source, split=split, offline=offline)
        self._purpose, self._columns, self._limit = purpose, dict(columns or {}), limit
        self._after = after
        self._on_bad_row, self._sink = on_bad_row, sink
        self._shape: Shape | None = None
        self._seen = array("Q")
        self.read, self.accepted, self.rejected = 0, 0, 0
        self.identical_pairs = 0
        self.rejects: list[Reject] = []

    @property
    def shape(self) -> str:
        """Name of the shape, recognised from the first row; empty before that."""
        return self._shape.name if self._shape else ""

    @property
    def inputs(self) -> tuple[InputFile, ...]:
        """What is read, with sha256; a file's is known at once, a hub data set's after iteration."""
        return self._source.inputs()

    @property
    def duplicates(self) -> int:
        """How many pairs had come before, word for word; 0 unless the purpose is "pairs".

        Counted as rows are read, so a row that a later step refuses is in it.
        """
        seen = np.array(self._seen, dtype=np.uint64)
        return len(seen) - len(np.unique(seen))

    def __iter__(self) -> Iterator[Example]:
        """Yield the accepted rows in file order; a second time is an error, since it would count twice."""
        if self.read:
            raise RuntimeError("a Reader is iterated once")
        for row in islice(self._source.rows(), self._limit):
            self.read += 1
            # Accepted until refused, so that the sum holds wherever the consumer stops.
            self.accepted += 1
            example = self._accept(row)
            if example is not None:
                if self._purpose == "pairs":
                    self._count_pairs(example)
                if row.number > self._after:
                    yield example
        self.require_rows()

    def reject_row(
        self,
        row: int,
        reason: str | RowError,
        *,
        offset: int | None = None,
        excerpt: str = "",
        action: OnBadRow | None = None,
        hint: str = "repair the row, or use --on-bad-row reject",
    ) -> None:
        """Refuse a row that had been accepted, because of what a later step found.

        Args:
            row: the example's `row`.
            reason: what is wrong.
            offset: the example's `offset`.
            excerpt: the start of the row.
            action: raise or reject, whatever the reader's own `on_bad_row`.
            hint: what to do, if it raises.

        Raises:
            BadInputError: the reader was told to stop at bad rows.

        """
        fault = RowError("a usable row", reason) if isinstance(reason, str) else reason
        field = self._columns.get(fault.field, fault.field)
        text = reason if isinstance(reason, str) else fault.reason
        refused = Reject(row, offset, field, text, excerpt[:EXCERPT_CHARACTERS])
        self.accepted -= 1
        self.rejected += 1
        if (action or self._on_bad_row) == "error":
            raise BadInputError(self._where(refused), fault.expected, fault.found, hint)
        if self._sink is not None:
            self._sink(refused)
        elif len(self.rejects) < KEPT_REJECTS:
            self.rejects.append(refused)

    def require_rows(self) -> None:
        """Raise `BadInputError` if no row is accepted."""
        if self.accepted == 0:
            found = f"{self.read} rows, all rejected" if self.read else "no rows"
            first = f": {self.rejects[0].reason}" if self.rejects else ""
            raise BadInputError(self._source.name, "at least one row", found + first, "give a file with rows")

    def _accept(self, row: RawRow) -> Example | None:
        """Return the row as an example, or refuse it."""
        fault = row.error
        if fault is None:
            try:
                return self._example(row)
            except RowError as error:
                fault = error
        self.reject_row(row.number, fault, offset=row.offset, excerpt=row.data.decode("utf-8", "replace"))
        return None

    def _example(self, row: RawRow) -> Example:
        if not isinstance(row.value, dict):
            raise RowError("an object", kind_of(row.value))
        value = self._renamed(row.value)
        if self._shape is None:
            self._shape = self._recognised(value)
        return example_of(value, self._shape, self._purpose, row.number, row.offset)

    def _renamed(self, value: dict[str, object]) -> dict[str, object]:
        """Give mapped columns their canonical names."""
        if not self._columns:
            return value
        theirs = {name: canonical for canonical, name in self._columns.items()}
        kept = {key: item for key, item in value.items() if key not in self._columns or key in theirs}
        return {theirs.get(key, key): item for key, item in kept.items()}

    def _recognised(self, value: dict[str, object]) -> Shape:
        shape = recognise(value)
        if self._purpose == "pairs" and not shape.labelled:
            raise RowError("the columns chosen and rejected", f"rows of the shape {shape.name}")
        return shape

    def _where(self, refused: Reject) -> str:
        at = f" (byte {refused.offset})" if refused.offset is not None else ""
        field = f", field {refused.field}" if refused.field else ""
        return f"{self._source.name}:{self._source.unit} {refused.row}{at}{field}"

    def _count_pairs(self, example: Example) -> None:
        """Note every pair's hash, and pairs whose two responses are the same."""
        prompt = json.dumps(example.prompt)
        for good, side in zip(example.responses, example.sides, strict=True):
            for bad, other in zip(example.responses, example.sides, strict=True):
                if side == CHOSEN and other == REJECTED:
                    self._seen.append(_hash(prompt, good, bad))
                    self.identical_pairs += good == bad


def _hash(*texts: str) -> int:
    return xxhash.xxh3_64_intdigest(json.dumps(texts).encode())
