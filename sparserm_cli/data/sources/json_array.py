"""Read a `.json` file as rows: an array, an object that holds an array, or JSON lines under a wrong name.

Memory: the whole file, at most `MAX_FILE_BYTES`.
"""

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

from sparserm_cli.data.example import RawRow, RowError
from sparserm_cli.data.sources.byte_streams import text_bytes
from sparserm_cli.data.sources.strict_json import EXCERPT_CHARACTERS, MAX_DEPTH, Line, iter_lines, parse_json
from sparserm_cli.errors import BadInputError

MAX_FILE_BYTES = 2**30
_ROW_KEYS = ("rows", "data", "examples")
_SPACE = re.compile(r"[ \t\r\n]*")
# This decoder only finds where a value ends; `parse_json` checks the value itself.
_SKIPPER = json.JSONDecoder(parse_int=lambda _: 0, parse_float=lambda _: 0.0)


def json_rows(path: Path, split: str) -> Iterator[RawRow]:
    """Yield the rows of a `.json` file.

    Raises:
        BadInputError: the file is too large, not UTF-8, not JSON, or has no array of rows.

    """
    try:
        for line in _lines(path, split):
            excerpt = line.data[: EXCERPT_CHARACTERS * 4]
            try:
                yield RawRow(line.number, line.offset, parse_json(line), None, excerpt)
            except RowError as error:
                yield RawRow(line.number, line.offset, None, error, excerpt)
    except json.JSONDecodeError as error:
        at, found = len(error.doc[: error.pos].encode()), f"{error.msg[0].lower()}{error.msg[1:]}"
        raise BadInputError(f"{path}:byte {at}", "JSON", found, "repair the file") from None
    except RecursionError:
        expected = f"at most {MAX_DEPTH} levels of nesting"
        raise BadInputError(str(path), expected, "far more", "repair the file") from None


def _lines(path: Path, split: str) -> Iterator[Line]:
    """Yield each row's own bytes, numbered from 1."""
    text = _text(path)
    start = _skip_space(text, int(text.startswith("\ufeff")))
    if start == len(text):
        return
    if text[start] == "[":
        yield from _elements(text, start)
        return
    if text[start] != "{":
        raise BadInputError(str(path), "an array of rows", "another JSON value", "convert it to .jsonl")
    _, end = _SKIPPER.raw_decode(text, start)
    if _skip_space(text, end) < len(text):
        # Several objects in sequence are JSON lines under the wrong file name.
        yield from iter_lines(io.BytesIO(text.encode()))
        return
    rows_start = _array_in(path, text, start, split)
    if rows_start is not None:
        yield from _elements(text, rows_start, whole=False)
        return
    data = text[start:end].encode()
    yield Line(1, len(text[:start].encode()), data, len(data), ended=True)


def _text(path: Path) -> str:
    with text_bytes(path) as stream:
        data = stream.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        expected = f"a .json file of at most {MAX_FILE_BYTES:,} bytes"
        raise BadInputError(str(path), expected, "more", "convert it to .jsonl")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        where, found = f"{path}:byte {error.start}", f"byte 0x{data[error.start]:02x}"
        raise BadInputError(where, "UTF-8 text", found, "save the file as UTF-8") from None


def _elements(text: str, start: int, *, whole: bool = True) -> Iterator[Line]:
    """Yield the elements of the array that begins at `start`; with `whole`, nothing may follow it."""
    position, number, offset, counted = _skip_space(text, start + 1), 0, 0, 0
    more = text[position : position + 1] != "]"
    while more:
        _, end = _SKIPPER.raw_decode(text, position)
        number += 1
        offset, counted = offset + len(text[counted:position].encode()), position
        data = text[position:end].encode()
        yield Line(number, offset, data, len(data), ended=True)
        position = _skip_space(text, end)
        more = text[position : position + 1] == ","
        if more:
            position = _skip_space(text, position + 1)
        elif text[position : position + 1] != "]":
            raise json.JSONDecodeError("Expecting ',' delimiter", text, position)
    if whole and (end := _skip_space(text, position + 1)) < len(text):
        raise json.JSONDecodeError("Extra data", text, end)


def _array_in(path: Path, text: str, start: int, split: str) -> int | None:
    """Return where the array of rows of the object at `start` begins; None if the object is itself a row."""
    arrays: dict[str, int] = {}
    position = _skip_space(text, start + 1)
    while text[position] != "}":
        key, end = _SKIPPER.raw_decode(text, position)
        position = _skip_space(text, _skip_space(text, end) + 1)
        value, end = _SKIPPER.raw_decode(text, position)
        rows = isinstance(value, list) and all(isinstance(item, dict) for item in value)
        if rows and (value or key in _ROW_KEYS):
            arrays[str(key)] = position
        position = _skip_space(text, end)
        if text[position] == ",":
            position = _skip_space(text, position + 1)
    if not arrays or {"chosen", "rejected"} <= arrays.keys() or arrays.keys() == {"messages"}:
        return None
    for key in (split, *_ROW_KEYS):
        if key in arrays:
            return arrays[key]
    if len(arrays) == 1:
        return next(iter(arrays.values()))
    found = f"several: {', '.join(arrays)}"
    raise BadInputError(str(path), "one array of rows", found, "name one with --split")


def _skip_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position
