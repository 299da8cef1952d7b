"""The public entry to data: `Reader` yields examples and counts the rows that it reads and refuses.

Reads: files or a data set of the hub (`files.open_source`). Memory: one row (the rows of one prompt where
each holds one response), plus the first refused rows, plus, for purpose "pairs" only, 16 bytes per pair for
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
    """The rows of one source as examples; it can be iterated once, and its counters are complete afterwards.

    Args:
        source: a file, or `owner/name[:config][@revision]` of a Hugging Face data set.
        purpose: "pairs" needs rows that say which responses are better; "responses" takes those too, without
            regard to sides; "any" takes all and keeps the sides of those that have them.
        columns: the name used here -> the column or path in the file, such as `{"prompt": "question.text"}`.
        split: name of the split of a data set.
        limit: largest number of rows to read.
        after: number of the last row that is read and counted but not yielded.
        on_bad_row: raise on the first bad row, or reject bad rows and go on.
        offline: never use the network.
        sink: called with each refused row; without a sink the first 100 are kept in `rejects`.
        note: called once, after the first row, with a sentence on how the rows are understood.

    Raises:
        BadInputError: the file does not exist; while iterating, a row is bad or there are no rows.
        UsageError: a mapped name is unknown; while iterating, a mapped column does not exist.

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
        """The number of accepted rows of a labelled shape without a pair, per reason."""
        self.parsed = 0
        """The number of rows whose messages were JSON text."""
        self.templated = 0
        """The number of rows with text to which the chat template had already been applied."""
        self.used: dict[str, str] = {}
        """The names used here that had a value in some row, each with its column or path."""
        self.ignored: Counter[str] = Counter()
        """Columns that were not used, with the number of rows that have them."""

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
        """The inputs with their sha256, which a data set of the hub has only after iteration."""
        return self._source.inputs()

    @property
    def duplicates(self) -> int:
        """The number of pairs that repeat an earlier pair word for word; 0 unless the purpose is "pairs".

        Pairs are counted as rows are read, so a row that a later step refuses is included.
        """
        seen = np.array(self._seen, dtype=np.uint64)
        return len(seen) - len(np.unique(seen))

    @property
    def contradictory(self) -> int:
        """The number of distinct pairs that also occur with sides swapped; two such pairs count once."""
        return len(np.intersect1d(np.array(self._seen, np.uint64), np.array(self._turned, np.uint64))) // 2

    def __iter__(self) -> Iterator[Example]:
        """Yield the accepted rows in file order; a second time is an error, since it would count twice.

        For purpose "pairs", rows that hold one rated response each are combined into one example per prompt.
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
        """Yield the accepted rows; where each holds one response, the rows of one prompt are combined."""
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
        """Refuse a row whose prompt was read earlier."""
        self.reject_row(example.row, fault, offset=example.offset)

    def _rows(self) -> Iterator[Example]:
        """Yield the accepted rows one by one."""
        for row in islice(self._source.rows(), self._limit):
            self.read += 1
            # A row counts as accepted until it is refused, so the sum holds wherever the consumer stops.
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
        """Refuse a row that had been accepted, because a later step found a fault in it.

        Args:
            row: the example's `row`.
            reason: a description of the fault.
            offset: the example's `offset`.
            excerpt: the start of the row.
            action: whether to raise or to reject; None follows the reader's own `on_bad_row`.
            rows: how many rows of the source the example was made from.
            hint: advice for the error, if one is raised.

        Raises:
            BadInputError: the action is to raise.

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
        """Count a row with an already templated text, and write a note at the first such row."""
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
        recognised = self._shape = self._shape or self._recognised(row.value)
        view = Row(row.value, recognised.names)
        example = example_of(view, recognised, self._purpose, row.number, row.offset)
        self.parsed += view.parsed
        self.used.update(view.found)
        self.ignored.update(view.ignored())
        if first and self._note is not None:
            self._note(f"{self._source.name}: {understood(recognised, view)}")
        return example

    def _recognised(self, value: dict[str, object]) -> Recognised:
        for ours, theirs in self._columns.items():
            if not stands(value, theirs):
                raise self._no_column(ours, theirs, list(value))
        recognised = recognise(value, self._columns)
        if self._purpose == "pairs" and not recognised.labelled:
            raise RowError("the columns chosen and rejected", f"rows of the shape {recognised.name}")
        return recognised

    def _no_column(self, ours: str, theirs: str, there: list[str]) -> UsageError:
        """Return the error that lists the columns of the file and suggests the one that may be meant."""
        close = difflib.get_close_matches(theirs, there, 1)
        hint = f"use --column {ours}={close[0]}" if close else "name one of them"
        expected = f"a column of {self._source.name}, which has {', '.join(map(str, there[:12]))}"
        return UsageError(f"--column {ours}={theirs}", expected, f"none of the name {theirs}", hint)

    def _where(self, refused: Reject) -> str:
        at = f" (byte {refused.offset})" if refused.offset is not None else ""
        field = f", field {refused.field}" if refused.field else ""
        return f"{self._source.where(refused.row)}{at}{field}"

    def _count_pairs(self, example: Example) -> None:
        """Record the hashes of every pair and of the swapped pair, and count pairs of equal responses."""
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
    """Return one sentence per kind of accepted row or pair that cannot be learned from; none if all can."""
    sentences = []
    if reader.undecided:
        kinds = ", ".join(f"{count:,} {why}" for why, count in reader.undecided.items())
        sentences.append(f"{reader.undecided.total():,} rows prefer no response: {kinds}")
    if reader.identical_pairs:
        sentences.append(f"{reader.identical_pairs:,} pairs have identical answers")
    return sentences


def _hash(*texts: str) -> int:
    return xxhash.xxh3_64_intdigest(json.dumps(texts).encode())


def _check_names(columns: Mapping[str, str]) -> None:
    """Refuse a mapped name that no shape has.

    Raises:
        UsageError: a name is unknown.

    """
    for ours, theirs in columns.items():
        if ours not in NAMES:
            close = difflib.get_close_matches(ours, NAMES, 1)
            hint = f"use --column {close[0]}={theirs}" if close else "see `sparserm data --help`"
            known = ", ".join(sorted(NAMES))
            raise UsageError(f"--column {ours}={theirs}", f"one of {known} before the =", shown(ours), hint)
