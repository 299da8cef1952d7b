"""The one public way into data: `Reader` yields examples and keeps count of what it read and refused.

Reads: files or a data set of the hub (`files.open_source`). Memory: one row (the rows of one prompt where
each holds one response), plus the first refused rows, plus, of purpose "pairs" alone, 16 bytes a pair for
counting duplicates. accepted + rejected == read at every moment.
"""

import difflib
import json
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Literal

import numpy as np
import xxhash

from sparserm_cli.data.example import Example, InputFile, Message, RawRow, Reject, RowError
from sparserm_cli.data.grouping import grouped
from sparserm_cli.data.shapes.shape import Row, stands
from sparserm_cli.data.shapes.table import NAMES, Purpose, Recognised, example_of, recognise
from sparserm_cli.data.shapes.words import understood
from sparserm_cli.data.sources.open import open_source
from sparserm_cli.data.sources.strict_json import EXCERPT_CHARACTERS, kind_of, shown
from sparserm_cli.errors import BadInputError, UsageError

__all__ = ["Example", "InputFile", "Message", "Reader", "Reject"]

OnBadRow = Literal["error", "reject"]
KEPT_REJECTS = 100


class Reader:
    """The rows of one source as examples; iterate once, the counters hold afterwards.

    Args:
        source: a file, or `owner/name[:config][@revision]` of a Hugging Face data set.
        purpose: "pairs" needs rows that say which responses are better; "responses" takes those too, without
            regard to sides; "any" takes all and keeps the sides of those that have them.
        columns: our name -> column or path in the file, such as `{"prompt": "question.text"}`.
        split: split of a data set.
        limit: read at most so many rows.
        after: number of the last row that is read and counted, but not yielded.
        on_bad_row: raise on the first bad row, or reject bad rows and go on.
        offline: never call out.
        sink: called with each refused row; without one the first 100 are kept in `rejects`.
        note: told once how the rows are understood, when the first has been.

    Raises:
        BadInputError: no such file; while iterating, a bad row or no rows at all.
        UsageError: a mapped name is unknown; while iterating, a mapped column is not there.

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
        note: Callable[[str], None] | None = None,
    ) -> None:
        self._source = open_source(source, split=split, offline=offline)
        self._purpose, self._columns, self._limit = purpose, dict(columns or {}), limit
        _check_names(self._columns)
        self._after = after
        self._on_bad_row, self._sink, self._note = on_bad_row, sink, note
        self._shape: Recognised | None = None
        self._seen, self._turned = array("Q"), array("Q")
        self.read, self.accepted, self.rejected = 0, 0, 0
        self.identical_pairs = 0
        self.rejects: list[Reject] = []
        self.undecided: Counter[str] = Counter()
        """Why accepted rows of a labelled shape have no pair, with how many there are."""
        self.parsed = 0
        """Rows with messages that were JSON text."""
        self.templated = 0
        """Rows with text that had been through the chat template."""
        self.used: dict[str, str] = {}
        """Our names that had a value in some row, each with its column or path."""
        self.ignored: Counter[str] = Counter()
        """Columns that were not looked at, with in how many rows."""

    def file_of(self, row: int) -> str:
        """Return the name of the file that a row stands in, without its folder."""
        return self._source.file_of(row)

    @property
    def shape(self) -> str:
        """Name of the shape, recognised from the first row; empty before that."""
        return self._shape.name if self._shape else ""

    @property
    def recognised(self) -> Recognised | None:
        """The shape with its columns, recognised from the first row; None before that."""
        return self._shape

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

    @property
    def contradictory(self) -> int:
        """How many different pairs are also there the other way round, each two counted once."""
        return len(np.intersect1d(np.array(self._seen, np.uint64), np.array(self._turned, np.uint64))) // 2

    def __iter__(self) -> Iterator[Example]:
        """Yield the accepted rows in file order; a second time is an error, since it would count twice.

        For pairs, rows that hold one rated response each come as one example a prompt.
        """
        if self.read:
            raise RuntimeError("a Reader is iterated once")
        if self._purpose != "pairs":
            yield from self._rows()
        else:
            for example in self._examples():
                self._count_pairs(example)
                yield example
        self.require_rows()

    def _examples(self) -> Iterator[Example]:
        """Yield the accepted rows, those of one prompt together where each holds one response."""
        rows = self._rows()
        first = next(rows, None)
        if first is None:
            return
        rows = chain([first], rows)
        if self._shape is not None and self._shape.shape.grouped:
            yield from grouped(rows, self._apart)
        else:
            yield from rows

    def _apart(self, example: Example, fault: RowError) -> None:
        """Refuse a row of a prompt that has been before."""
        self.reject_row(example.row, fault, offset=example.offset)

    def _rows(self) -> Iterator[Example]:
        """Yield the accepted rows one by one."""
        for row in islice(self._source.rows(), self._limit):
            self.read += 1
            # Accepted until refused, so that the sum holds wherever the consumer stops.
            self.accepted += 1
            example = self._accept(row)
            if example is not None and row.number > self._after:
                yield example

    def reject_row(
        self,
        row: int,
        reason: str | RowError,
        *,
        offset: int | None = None,
        excerpt: str = "",
        action: OnBadRow | None = None,
        rows: int = 1,
        hint: str = "repair the row, or use --on-bad-row reject",
    ) -> None:
        """Refuse a row that had been accepted, because of what a later step found.

        Args:
            row: the example's `row`.
            reason: what is wrong.
            offset: the example's `offset`.
            excerpt: the start of the row.
            action: raise or reject, whatever the reader's own `on_bad_row`.
            rows: how many rows of the source the example was made from.
            hint: what to do, if it raises.

        Raises:
            BadInputError: the reader was told to stop at bad rows.

        """
        fault = RowError("a usable row", reason) if isinstance(reason, str) else reason
        text = reason if isinstance(reason, str) else fault.reason
        refused = Reject(row, offset, fault.field, text, excerpt[:EXCERPT_CHARACTERS])
        self.accepted -= rows
        self.rejected += rows
        if (action or self._on_bad_row) == "error":
            raise BadInputError(self._where(refused), fault.expected, fault.found, hint)
        if self._sink is not None:
            self._sink(refused)
        elif len(self.rejects) < KEPT_REJECTS:
            self.rejects.append(refused)

    def count_templated(self) -> None:
        """Note a row whose text has been through the chat template, and say so at the first."""
        self.templated += 1
        if self.templated == 1 and self._note is not None:
            self._note(
                f"{self._source.name}: the text has been through the chat template, and is taken as it is"
            )

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
        first = self._shape is None
        found = self._shape = self._shape or self._recognised(row.value)
        view = Row(row.value, found.names)
        example = example_of(view, found, self._purpose, row.number, row.offset)
        self.parsed += view.parsed
        self.used.update(view.found)
        self.ignored.update(view.ignored())
        if first and self._note is not None:
            self._note(f"{self._source.name}: {understood(found, view)}")
        return example

    def _recognised(self, value: dict[str, object]) -> Recognised:
        for ours, theirs in self._columns.items():
            if not stands(value, theirs):
                raise self._no_column(ours, theirs, list(value))
        found = recognise(value, self._columns)
        if self._purpose == "pairs" and not found.labelled:
            raise RowError("the columns chosen and rejected", f"rows of the shape {found.name}")
        return found

    def _no_column(self, ours: str, theirs: str, there: list[str]) -> UsageError:
        """Say which columns there are, and which of them may be meant."""
        close = difflib.get_close_matches(theirs, there, 1)
        hint = f"use --column {ours}={close[0]}" if close else "name one of them"
        expected = f"a column of {self._source.name}, which has {', '.join(map(str, there[:12]))}"
        return UsageError(f"--column {ours}={theirs}", expected, f"none of the name {theirs}", hint)

    def _where(self, refused: Reject) -> str:
        at = f" (byte {refused.offset})" if refused.offset is not None else ""
        field = f", field {refused.field}" if refused.field else ""
        return f"{self._source.where(refused.row)}{at}{field}"

    def _count_pairs(self, example: Example) -> None:
        """Note every pair's hash, that of the pair turned round, and pairs of twice the same response."""
        if example.undecided:
            self.undecided[example.undecided] += 1
        prompt = json.dumps([example.prompt, example.tools])
        for good, bad in example.pairs:
            both = (json.dumps(example.message(good)), json.dumps(example.message(bad)))
            self._seen.append(_hash(prompt, *both))
            self.identical_pairs += both[0] == both[1]
            if both[0] != both[1]:
                self._turned.append(_hash(prompt, *reversed(both)))


def without_pair(reader: Reader) -> list[str]:
    """Return sentences on what a reader has accepted that makes no pair to learn from; none if all does."""
    told = []
    if reader.undecided:
        kinds = ", ".join(f"{count:,} {why}" for why, count in reader.undecided.items())
        told.append(f"{reader.undecided.total():,} rows prefer no response: {kinds}")
    if reader.identical_pairs:
        told.append(f"{reader.identical_pairs:,} pairs have identical answers")
    return told


def _hash(*texts: str) -> int:
    return xxhash.xxh3_64_intdigest(json.dumps(texts).encode())


def _check_names(columns: Mapping[str, str]) -> None:
    """Refuse a name of ours that no shape has.

    Raises:
        UsageError: there is one.

    """
    for ours, theirs in columns.items():
        if ours not in NAMES:
            close = difflib.get_close_matches(ours, NAMES, 1)
            hint = f"use --column {close[0]}={theirs}" if close else "see `sparserm data --help`"
            known = ", ".join(sorted(NAMES))
            raise UsageError(f"--column {ours}={theirs}", f"one of {known} before the =", shown(ours), hint)
