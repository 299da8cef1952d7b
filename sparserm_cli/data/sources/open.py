"""From a file, or the name of a data set on the hub, to raw rows.

`.jsonl` and `.jsonl.gz` are read line by line, `.csv` and `.parquet` in pieces; only `.json` is read whole.
"""

import gzip
import hashlib
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sparserm_cli.data.example import InputFile, RawRow, RowError
from sparserm_cli.data.sources.json_array import json_rows
from sparserm_cli.data.sources.strict_json import EXCERPT_CHARACTERS, Line, iter_lines, parse_json
from sparserm_cli.data.sources.tables import csv_rows, parquet_rows
from sparserm_cli.errors import BadInputError

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".csv", ".parquet")
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?(@[\w./-]+)?")
_HASH_BLOCK = 2**20


@dataclass(frozen=True)
class RowSource:
    """An opened source of rows."""

    name: str
    """File name as given, or the name of the data set; it begins every error."""
    unit: str
    """What a row's number counts: "line" or "row"."""
    rows: Callable[[], Iterator[RawRow]]
    """Starts reading from the first row."""
    inputs: Callable[[], tuple[InputFile, ...]]
    """What is read, with digests; for a data set of the hub known only after reading."""


def open_source(source: str | Path, *, split: str = "train", offline: bool = False) -> RowSource:
    """Return the rows of a file or of a data set on the hub.

    Args:
        source: path of a file with one of `SUFFIXES`, or `owner/name[:config][@revision]`.
        split: which split of a data set, or which array of a `.json` file that has several.
        offline: take a data set of the hub from the local cache only.

    Raises:
        BadInputError: no such file, or not a file of rows.

    """
    path = Path(source)
    if isinstance(source, str) and not path.exists() and is_hub_name(source):
        from sparserm_cli.data.sources.huggingface import HubRows

        rows = HubRows(source, split=split, offline=offline)
        return RowSource(source, "row", rows.rows, rows.inputs)
    _check_file(path)
    readers: dict[str, tuple[str, Callable[[], Iterator[RawRow]]]] = {
        ".jsonl": ("line", lambda: _jsonl_rows(path)),
        ".jsonl.gz": ("line", lambda: _gzip_rows(path)),
        ".json": ("row", lambda: json_rows(path, split)),
        ".csv": ("line", lambda: csv_rows(path)),
        ".parquet": ("row", lambda: parquet_rows(path)),
    }
    unit, rows_of = readers[_suffix(path)]
    return RowSource(str(source), unit, rows_of, cache(lambda: (hash_file(path),)))


def is_hub_name(source: str) -> bool:
    """Whether a source that is no file reads as `owner/name[:config][@revision]`."""
    named = _HUB_NAME.fullmatch(source) is not None
    return named and not source.startswith(".") and not _suffix(Path(source))


def hash_file(path: Path) -> InputFile:
    """Return size and sha256 of a file's bytes."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as stream:
        while block := stream.read(_HASH_BLOCK):
            digest.update(block)
            size += len(block)
    return InputFile(str(path), size, digest.hexdigest())


def row_of_line(line: Line) -> RawRow:
    """Parse one line strictly; a fault becomes the row's `error`."""
    data = line.data[: EXCERPT_CHARACTERS * 4]
    try:
        value = parse_json(line)
    except RowError as error:
        return RawRow(line.number, line.offset, None, error, data)
    return RawRow(line.number, line.offset, value, None, data)


def _suffix(path: Path) -> str:
    """Return the one of `SUFFIXES` that the name ends in, or an empty string."""
    name = path.name.lower()
    return next((suffix for suffix in sorted(SUFFIXES, key=len, reverse=True) if name.endswith(suffix)), "")


def _check_file(path: Path) -> None:
    """Refuse what is not a readable file with a known suffix."""
    where, hint = str(path), "give the path of a file, or owner/name of a Hugging Face data set"
    if not path.exists():
        raise BadInputError(where, "a data file", "no such file", hint)
    if path.is_dir():
        raise BadInputError(where, "a data file", "a folder", hint)
    if not _suffix(path):
        expected = f"a file ending in {', '.join(SUFFIXES)}"
        raise BadInputError(where, expected, path.suffix or "no ending", "rename or convert it")
    try:
        path.open("rb").close()
    except PermissionError:
        raise BadInputError(where, "a readable file", "no permission to read it", "change its mode") from None


def _jsonl_rows(path: Path) -> Iterator[RawRow]:
    return (row_of_line(line) for line in iter_lines(path))


def _gzip_rows(path: Path) -> Iterator[RawRow]:
    """Yield the rows of a gzip file; a cut or damaged one ends in an error, whatever the bad-row mode."""
    number, offset = 0, 0
    try:
        with gzip.open(path, "rb") as stream:
            for line in iter_lines(stream):
                number, offset = line.number, line.offset + line.size
                yield row_of_line(line)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise BadInputError(
            f"{path}:after line {number} (byte {offset} of the text)",
            "a whole gzip file",
            "a cut one" if isinstance(error, EOFError) else f"a damaged one: {str(error).lower()}",
            "copy the file again",
        ) from None
