"""Parse JSON lines strictly, and define which lines are refused.

Python's own `json` takes duplicate keys, NaN, lone surrogates and numbers that overflow, and ends in a
`RecursionError` on deep nesting. Here each of these is a `RowError` that says where the line starts.

Memory: one line, at most `max_line_bytes`; the rest of a longer line is read past and dropped.
"""

import json
import math
import re
from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import Any, NamedTuple

from sparserm_cli.data.example import RowError

MAX_LINE_BYTES = 16 * 2**20


MAX_DEPTH = 64


EXCERPT_CHARACTERS = 200


_BOM = b"\xef\xbb\xbf"


_SURROGATE_OR_NUL = re.compile("[\ud800-\udfff\0]")


_KINDS = {str: "a string", bool: "true or false", int: "a number", float: "a number", list: "a list"}


class Line(NamedTuple):
    """One line of a file that is not blank, without its line end."""

    number: int
    """Line number in the file, from 1."""
    offset: int
    """Byte offset of `data` in the file."""
    data: bytes
    """The bytes of the line; only its start if `size` is greater than `len(data)`."""
    size: int
    """Number of bytes of the whole line."""
    ended: bool
    """Whether a newline follows; only the last line of a file may lack one."""


def iter_lines(source: Path | str | BufferedIOBase, max_line_bytes: int = MAX_LINE_BYTES) -> Iterator[Line]:
    """Yield the lines of a binary stream or file except blank ones.

    A byte order mark at the start and CRLF line ends are taken off. Of a line longer than `max_line_bytes`
    only the first `max_line_bytes` are kept; `parse_json` refuses it.
    """
    if isinstance(source, str | Path):
        with Path(source).open("rb") as stream:
            yield from iter_lines(stream, max_line_bytes)
        return
    for line in raw_lines(source, max_line_bytes):
        whole = line.size == len(line.data)
        data = line.data.removesuffix(b"\n").removesuffix(b"\r") if whole else line.data
        if data.strip():
            yield line._replace(data=data, size=len(data) if whole else line.size)


def raw_lines(stream: BufferedIOBase, max_line_bytes: int = MAX_LINE_BYTES) -> Iterator[Line]:
    """Yield every line of `stream` with its line end, blank ones too; a byte order mark is taken off."""
    number, offset = 0, 0
    while data := stream.readline(max_line_bytes):
        number += 1
        size, ended = len(data), data.endswith(b"\n")
        while not ended and (rest := stream.readline(max_line_bytes)):
            size += len(rest)
            ended = rest.endswith(b"\n")
        skip = len(_BOM) if number == 1 and data.startswith(_BOM) else 0
        yield Line(number, offset + skip, data[skip:], size - skip, ended)
        offset += size


def parse_json(line: Line, *, any_text: bool = False) -> Any:
    """Return the JSON value of one line.

    Args:
        line: the line.
        any_text: accept NUL characters and lone surrogates, for a caller that checks for them itself.

    Raises:
        RowError: the line is too long, not UTF-8, not JSON, or holds something JSON lines must not hold.

    """
    text = decode(line)
    try:
        value = _strict_loads(text)
    except json.JSONDecodeError as error:
        raise _syntax_error(line, text, error) from None
    except RecursionError:
        raise _too_deep() from None
    if not any_text and ("\\u" in text or "\0" in text):
        check_text(value)
    if text.count("[") + text.count("{") > MAX_DEPTH:
        _check_depth(value)
    return value


def decode(line: Line) -> str:
    """Return the text of a line, strictly UTF-8 and within the size limit."""
    if line.size > len(line.data):
        raise RowError(f"a line of at most {len(line.data):,} bytes", f"{line.size:,} bytes")
    try:
        return line.data.decode("utf-8")
    except UnicodeDecodeError as error:
        at = line.offset + error.start
        found = f"byte 0x{line.data[error.start]:02x} at byte {at}"
        if not line.ended and error.end == len(line.data) and error.reason == "unexpected end of data":
            raise RowError(
                "a whole line", f"a line cut short at byte {at}, in a character", offset=at
            ) from None
        raise RowError("UTF-8 text", found, offset=at) from None


def check_text(value: Any) -> None:
    """Refuse NUL characters and lone surrogates in any string of a JSON value."""
    for text in _strings(value):
        if match := _SURROGATE_OR_NUL.search(text):
            what = (
                "a NUL character" if match.group() == "\0" else f"a lone surrogate U+{ord(match.group()):04X}"
            )
            raise RowError("Unicode text", what)


def kind_of(value: Any) -> str:
    """Return the kind of a JSON value in words, for an error message."""
    if value is None:
        return "null"
    if isinstance(value, dict):
        return "an object"
    return _KINDS.get(type(value), f"a {type(value).__name__}")


def _strings(value: Any) -> Iterator[str]:
    """Yield every string of a JSON value, keys included, without recursion."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict):
            pending.extend(item.keys())
            pending.extend(item.values())
        elif isinstance(item, list | tuple):
            pending.extend(item)


def _check_depth(value: Any) -> None:
    """Refuse a value with more than `MAX_DEPTH` levels; a fixed limit, unlike Python's own."""
    level = [value]
    for _ in range(MAX_DEPTH):
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner.extend(item.values())
            elif isinstance(item, list):
                inner.extend(item)
        level = inner
    if any(isinstance(item, dict | list) for item in level):
        raise _too_deep()


def _too_deep() -> RowError:
    return RowError(f"at most {MAX_DEPTH} levels of nesting", "more")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for key, item in pairs:
        if key in value:
            raise RowError("each key once", f"the key {shown(key)} more than once")
        value[key] = item
    return value


def _integer(digits: str) -> int:
    if len(digits) > 20 or not -(2**63) <= int(digits) < 2**64:
        raise RowError("integers of at most 64 bits", f"one of {len(digits.lstrip('-'))} digits")
    return int(digits)


def _number(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise RowError("finite numbers", shown(digits, 40))
    return value


def _constant(name: str) -> float:
    raise RowError("finite numbers", name)


_strict_loads = json.JSONDecoder(
    object_pairs_hook=_unique_keys, parse_int=_integer, parse_float=_number, parse_constant=_constant
).decode


def _syntax_error(line: Line, text: str, error: json.JSONDecodeError) -> RowError:
    """Return the error of a line, distinguishing one that the file's end cuts short from a wrong one."""
    at = line.offset + len(text[: error.pos].encode())
    end = line.offset + len(line.data)
    if not line.ended and (error.pos >= len(text) - 8 or error.msg.startswith("Unterminated")):
        return RowError("a whole line", f"a line cut short at byte {end}, the end of the file", offset=end)
    return RowError("JSON", f"at byte {at}: {error.msg[0].lower()}{error.msg[1:]}", offset=at)


def shown(text: str, limit: int = 60) -> str:
    """Return text in quotes, on one line, shortened to `limit` characters."""
    return json.dumps(text if len(text) <= limit else f"{text[: limit - 3]}...", ensure_ascii=True)
