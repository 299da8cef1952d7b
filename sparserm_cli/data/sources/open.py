"""Open files or a data set of the hub as a stream of raw rows.

JSON lines are read line by line, tables in pieces; only `.json` is read whole. A folder, a pattern such as
`'shards/*.parquet'` or several files with commas between them are read one after another.
"""

import hashlib
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sparserm_cli.data.example import InputFile, RawRow, RowError
from sparserm_cli.data.sources.byte_streams import text_bytes
from sparserm_cli.data.sources.json_array import json_rows
from sparserm_cli.data.sources.several import files_of, kind_of_file, named_files
from sparserm_cli.data.sources.strict_json import EXCERPT_CHARACTERS, Line, iter_lines, parse_json
from sparserm_cli.data.sources.tables import csv_rows, parquet_rows
from sparserm_cli.errors import BadInputError, ResourceError
from sparserm_cli.files import hash_file, open_file

_PACKED = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
SUFFIXES = (*_PACKED, *(f"{suffix}.gz" for suffix in _PACKED), ".parquet")
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?(@[\w./-]+)?")


@dataclass(frozen=True)
class RowSource:
    """An opened source of rows."""

    name: str
    """The file name as given, or the name of the data set; every error begins with it."""
    unit: str
    """The unit that row numbers count: "line" or "row"."""
    rows: Callable[[], Iterator[RawRow]]
    """A function that starts reading from the first row."""
    inputs: Callable[[], tuple[InputFile, ...]]
    """A function that returns the inputs with digests, which a hub data set has only after reading."""
    place: Callable[[int], str] | None = None
    """A function that names the file of a row and its number there; None if there is only one file."""

    def where(self, number: int) -> str:
        """Return the position of a row, for an error message."""
        return f"{self.name}:{self.unit} {number}" if self.place is None else self.place(number)

    def file_of(self, number: int) -> str:
        """Return the name of the file that a row stands in, without its folder."""
        return Path(self.where(number).rpartition(":")[0]).name


def open_source(source: str | Path, *, split: str = "train", offline: bool = False) -> RowSource:
    """Return the rows of a file or of a data set on the hub.

    Args:
        source: path of a file with one of `SUFFIXES`, of a folder of such files, a pattern, several paths
            with commas between them, or `owner/name[:config][@revision]`.
        split: which split of a data set, or which array of a `.json` file that has several.
        offline: take a data set of the hub from the local cache only.

    Raises:
        BadInputError: the file does not exist or is not a file of rows.

    """
    path = Path(source)
    several = named_files(source)
    if several is None and path.is_dir():
        several = files_of(path, SUFFIXES, split)
    if several is not None:
        return _joined(str(source), several, split)
    if isinstance(source, str) and not path.exists() and is_hub_name(source):
        from sparserm_cli.data.sources.huggingface import HubRows

        rows = HubRows(source, split=split, offline=offline)
        return RowSource(source, "row", rows.rows, rows.inputs)
    _check_file(path)
    unit, rows_of = _reader(path, split)
    return RowSource(str(source), unit, rows_of, cache(lambda: (input_file(path),)))


def _reader(path: Path, split: str) -> tuple[str, Callable[[], Iterator[RawRow]]]:
    """Return the unit that row numbers count in a file, and the function that reads its rows."""
    kind = kind_of_file(path, SUFFIXES).removesuffix(".gz")
    readers: dict[str, tuple[str, Callable[[], Iterator[RawRow]]]] = {
        ".jsonl": ("line", lambda: _line_rows(path)),
        ".ndjson": ("line", lambda: _line_rows(path)),
        ".json": ("row", lambda: json_rows(path, split)),
        ".csv": ("row", lambda: csv_rows(path)),
        ".tsv": ("row", lambda: csv_rows(path, delimiter="\t")),
        ".parquet": ("row", lambda: parquet_rows(path)),
    }
    return readers[kind]


def _joined(name: str, paths: Sequence[Path], split: str) -> RowSource:
    """Return the rows of several files one after another, numbered throughout."""
    if not paths:
        raise BadInputError(name, "at least one file", "none", "correct the pattern")
    for path in paths:
        _check_file(path)
    readers = [_reader(path, split) for path in paths]
    before: list[int] = []

    def rows() -> Iterator[RawRow]:
        before.clear()
        last = 0
        for _, rows_of in readers:
            before.append(last)
            start = last
            for row in rows_of():
                last = start + row.number
                yield row._replace(number=last)

    def place(number: int) -> str:
        file = bisect_right(before, number - 1) - 1
        return f"{paths[file]}:{readers[file][0]} {number - before[file]}"

    return RowSource(name, "row", rows, cache(lambda: tuple(input_file(path) for path in paths)), place)


def is_hub_name(source: str) -> bool:
    """Whether a source that is not a file has the form `owner/name[:config][@revision]`."""
    named = _HUB_NAME.fullmatch(source) is not None
    return named and not source.startswith(".") and not kind_of_file(Path(source), SUFFIXES)


def input_file(path: Path) -> InputFile:
    """Return size and sha256 of a file's bytes; raises BadInputError for a pipe or a device."""
    digest, size = hash_file(path, hashlib.sha256, BadInputError)
    return InputFile(str(path), size, digest)


def row_of_line(line: Line) -> RawRow:
    """Parse one line strictly; a fault becomes the row's `error`."""
    data = line.data[: EXCERPT_CHARACTERS * 4]
    try:
        value = parse_json(line)
    except RowError as error:
        return RawRow(line.number, line.offset, None, error, data)
    return RawRow(line.number, line.offset, value, None, data)


def _check_file(path: Path) -> None:
    """Refuse a path that is not a readable file with a known suffix."""
    where, hint = str(path), "give the path of a file, or owner/name of a Hugging Face data set"
    if not path.exists():
        raise BadInputError(where, "a data file", "no such file", hint)
    if path.is_dir():
        raise BadInputError(where, "a data file", "a folder", hint)
    if not kind_of_file(path, SUFFIXES):
        expected = f"a file ending in {', '.join(SUFFIXES)}"
        raise BadInputError(where, expected, path.suffix or "no ending", "rename or convert it")
    try:
        with open_file(path, BadInputError):
            pass
    except ResourceError:
        raise BadInputError(where, "a readable file", "no permission to read it", "change its mode") from None


def _line_rows(path: Path) -> Iterator[RawRow]:
    """Yield the rows of JSON lines."""
    with text_bytes(path) as stream:
        for line in iter_lines(stream):
            yield row_of_line(line)
