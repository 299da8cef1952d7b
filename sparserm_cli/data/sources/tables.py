"""Stream the rows of `.csv`, `.tsv` and `.parquet` files."""

import csv
import json
from collections.abc import Generator, Iterator
from contextlib import closing
from io import BufferedIOBase
from itertools import chain
from pathlib import Path
from typing import Any

from sparserm_cli.data.example import RawRow, RowError
from sparserm_cli.data.sources.byte_streams import text_bytes
from sparserm_cli.data.sources.strict_json import (
    EXCERPT_CHARACTERS,
    MAX_LINE_BYTES,
    check_text,
    decode,
    raw_lines,
    shown,
)
from sparserm_cli.errors import BadInputError

DELIMITERS = ",;\t|"
"""Characters that may separate the cells of a `.csv` file."""
_PARQUET_BATCH_ROWS = 256


def csv_rows(path: Path, *, delimiter: str | None = None) -> Iterator[RawRow]:
    """Yield the records of a CSV file with a header; rows are counted from 1, as in any other file.

    Args:
        path: the file, UTF-8 or UTF-16 with a byte order mark.
        delimiter: the character between cells; None takes the most frequent of `DELIMITERS` in the header.

    Raises:
        BadInputError: the header is missing, not UTF-8 or names a column twice.

    """
    csv.field_size_limit(MAX_LINE_BYTES)
    with text_bytes(path) as stream, closing(_CsvLines(stream, delimiter)) as lines:
        header = _header(path, lines)
        number = 0
        while True:
            lines.begin_record()
            try:
                cells = next(lines.records)
            except StopIteration:
                return
            except csv.Error as error:
                number += 1
                yield lines.row(number, None, RowError("CSV", str(error)))
                continue
            if not cells:
                continue
            number += 1
            try:
                yield lines.row(number, lines.checked(header, cells), None)
            except RowError as error:
                yield lines.row(number, None, error)


def parquet_rows(path: Path) -> Iterator[RawRow]:
    """Yield the rows of a parquet file, a few hundred in memory at a time.

    Raises:
        BadInputError: the file is not a parquet file or is damaged.

    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_PARQUET_BATCH_ROWS):
                for value in batch.to_pylist():
                    number += 1
                    yield checked_row(number, value)
    except (pa.ArrowException, OSError) as error:
        found = " ".join(str(error).split())[:EXCERPT_CHARACTERS]
        raise BadInputError(
            f"{path}:after row {number}", "a whole parquet file", found, "copy or write the file again"
        ) from None


def checked_row(number: int, value: dict[str, Any]) -> RawRow:
    """Return a row of Python values after the checks that JSON lines get."""
    excerpt = json.dumps(value, default=lambda item: type(item).__name__)[:EXCERPT_CHARACTERS].encode()
    try:
        check_text(value)
    except RowError as error:
        return RawRow(number, None, None, error, excerpt)
    return RawRow(number, None, value, None, excerpt)


def _header(path: Path, lines: "_CsvLines") -> list[str]:
    """Read the first record as column names."""
    try:
        names = next(lines.records, [])
        lines.raise_decoding()
    except (csv.Error, RowError) as error:
        raise BadInputError(f"{path}:line 1", "a CSV header", str(error), "repair the file") from None
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BadInputError(
            f"{path}:line 1", "each column once", f"{shown(twice[0])} twice", "rename a column"
        )
    return names


def _delimiter(header: str) -> str:
    """Return the character that separates the names of a header; a comma if several are equally frequent."""
    bare = "".join(header.split('"')[::2])
    return max(DELIMITERS, key=bare.count)


class _CsvLines:
    """Feeds decoded lines to the `csv` module and remembers where the record began."""

    def __init__(self, stream: BufferedIOBase, delimiter: str | None) -> None:
        self.begin_record()
        self._lines = self._texts(stream)
        header = next(self._lines, "")
        lines = chain([header] if header else [], self._lines)
        self.records = csv.reader(lines, strict=True, delimiter=delimiter or _delimiter(header))

    def close(self) -> None:
        """Close the file."""
        self._lines.close()

    def begin_record(self) -> None:
        """Forget the previous record."""
        self.line: int = 0
        self.offset: int = 0
        self.data: bytes = b""
        self.error: RowError | None = None

    def _texts(self, stream: BufferedIOBase) -> Generator[str]:
        for line in raw_lines(stream):
            if not self.line:
                self.line, self.offset = line.number, line.offset
                self.data = line.data[: EXCERPT_CHARACTERS * 4]
            try:
                text = decode(line)
            except RowError as error:
                # The record must still be read to its end; it is refused as a whole afterwards.
                self.error = self.error or error
                text = line.data.decode("utf-8", "replace")
            yield text

    def raise_decoding(self) -> None:
        """Raise the first fault met in decoding the record's lines."""
        if self.error is not None:
            raise self.error

    def checked(self, header: list[str], cells: list[str]) -> dict[str, str]:
        """Return the record by column name.

        Raises:
            RowError: the record is not UTF-8, has a NUL character, or too few or many cells.

        """
        self.raise_decoding()
        if len(cells) != len(header):
            raise RowError(f"{len(header)} cells as in the header", f"{len(cells)}")
        check_text(cells)
        return dict(zip(header, cells, strict=True))

    def row(self, number: int, value: dict[str, str] | None, error: RowError | None) -> RawRow:
        """Return the record just read as the row with the given number."""
        return RawRow(number, self.offset, value, error, self.data)
