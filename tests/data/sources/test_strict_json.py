"""Strict JSON lines: line ends, byte offsets, the size cap and every kind of value that is refused."""

import io
import json
import sys
import tracemalloc
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparserm_cli.data.example import RowError
from sparserm_cli.data.sources import strict_json as lines
from sparserm_cli.data.sources.strict_json import Line, iter_lines, parse_json


def line_of(data: bytes, *, ended: bool = True, offset: int = 0) -> Line:
    """Return a line as `iter_lines` would."""
    return Line(1, offset, data, len(data), ended)


def reason_of(data: bytes, *, ended: bool = True, offset: int = 0) -> str:
    """Return why a line is refused."""
    with pytest.raises(RowError) as caught:
        parse_json(line_of(data, ended=ended, offset=offset))
    return caught.value.reason


def test_lines_carry_number_and_byte_offset():
    """Numbers count every line, offsets count bytes, and the last line may lack its newline."""
    text = '{"a": "é"}\n{"b": 1}\n[2]'.encode()
    assert list(iter_lines(io.BytesIO(text))) == [
        Line(1, 0, '{"a": "é"}'.encode(), 11, ended=True),
        Line(2, 12, b'{"b": 1}', 8, ended=True),
        Line(3, 21, b"[2]", 3, ended=False),
    ]


def test_row_17_bom_crlf_and_blank_lines_are_accepted():
    """They are no rows and no errors, and later offsets still count their bytes."""
    data = b'\xef\xbb\xbf{"a": 1}\r\n\r\n   \n\t\n{"a": 2}\r\n'
    lines = list(iter_lines(io.BytesIO(data)))
    assert [(line.number, line.offset, parse_json(line)) for line in lines] == [
        (1, 3, {"a": 1}),
        (5, 21, {"a": 2}),
    ]
    assert data[21:].startswith(b'{"a": 2}')


def test_row_17_bom_is_taken_off_only_at_the_start():
    """A second byte order mark is no white space of JSON."""
    assert reason_of(b"\xef\xbb\xbf{}") == "expected JSON, found at byte 0: expecting value"


def test_row_17_invalid_utf8_is_refused_with_its_offset():
    """Latin-1 bytes, overlong forms and encoded surrogates are not UTF-8."""
    assert reason_of(b'{"a": "caf\xe9"}', offset=100) == "expected UTF-8 text, found byte 0xe9 at byte 110"
    assert reason_of(b'"\xc0\xaf"') == "expected UTF-8 text, found byte 0xc0 at byte 1"
    assert reason_of(b'"\xed\xa0\x80"') == "expected UTF-8 text, found byte 0xed at byte 1"
    assert reason_of(b"\xff\xfe{\0}\0") == "expected UTF-8 text, found byte 0xff at byte 0"


@pytest.mark.parametrize("cut", range(1, 27))
def test_row_16_cut_last_line(cut: int):
    """Wherever the last line is cut, the error says so and names the byte where the file ends."""
    whole = '{"prompt": "é", "n": true}'.encode()
    first = b'{"prompt": "x"}\n'
    data = first + whole[:cut]
    last = list(iter_lines(io.BytesIO(data)))[-1]
    with pytest.raises(RowError) as caught:
        parse_json(last)
    assert caught.value.expected == "a whole line"
    at = len(data) - 1 if cut == 13 else len(data)  # byte 13 is the first half of the two-byte é
    assert caught.value.found.startswith(f"a line cut short at byte {at}, ")
    assert caught.value.offset == at


def test_row_16_wrong_line_before_the_end_is_not_called_cut():
    """A line with a newline after it is wrong in itself."""
    assert reason_of(b'{"a": ', offset=7) == "expected JSON, found at byte 13: expecting value"
    assert reason_of(b"hello, this is not JSON", ended=False).startswith("expected JSON, found at byte 0")


def test_row_19_duplicate_keys():
    """A key may stand once in each object, on every level."""
    assert (
        reason_of(b'{"a": 1, "b": 2, "a": 3}') == 'expected each key once, found the key "a" more than once'
    )
    assert (
        reason_of(b'{"x": [{"k": 1, "k": 1}]}') == 'expected each key once, found the key "k" more than once'
    )
    assert parse_json(line_of(b'{"a": {"a": 1}}')) == {"a": {"a": 1}}


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
def test_row_19_numbers_that_are_not_finite(number: str):
    """NaN and the infinities are no JSON; a literal that overflows would become one."""
    reason = reason_of(f'{{"a": {number}}}'.encode())
    assert reason.startswith("expected finite numbers, found ")
    assert number in reason


def test_row_19_lone_surrogates_and_nul():
    """Neither survives in a value or a key; a proper pair does."""
    assert reason_of(b'{"a": "\\ud83d"}') == "expected Unicode text, found a lone surrogate U+D83D"
    assert reason_of(b'{"\\udc00": 1}') == "expected Unicode text, found a lone surrogate U+DC00"
    assert reason_of(b'{"a": ["x\\u0000y"]}') == "expected Unicode text, found a NUL character"
    assert reason_of(b'{"a": "\0"}') == "expected JSON, found at byte 7: invalid control character at"
    assert parse_json(line_of(b'{"a": "\\ud83d\\ude42"}')) == {"a": "\U0001f642"}


def test_row_19_huge_integers():
    """64 bits, signed or unsigned, and not one more; a million digits are refused without converting them."""
    assert parse_json(line_of(b"[18446744073709551615, -9223372036854775808]")) == [2**64 - 1, -(2**63)]
    assert (
        reason_of(b"[18446744073709551616]") == "expected integers of at most 64 bits, found one of 20 digits"
    )
    assert (
        reason_of(b"[" + b"9" * 10**6 + b"]")
        == "expected integers of at most 64 bits, found one of 1000000 digits"
    )


@pytest.mark.parametrize("depth", [65, 500, 5_000, 1_000_000])
@pytest.mark.parametrize(("start", "end"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_row_19_deep_nesting(depth: int, start: bytes, end: bytes):
    """More than 64 levels are refused with a reason, where Python's own parser ends in a RecursionError."""
    data = start * depth + b"1" + end * depth
    assert reason_of(data) == "expected at most 64 levels of nesting, found more"


def test_nesting_of_64_levels_is_accepted_and_wide_values_are_not_deep():
    """The limit counts levels, not brackets."""
    assert json.dumps(parse_json(line_of(b"[" * 64 + b"1" + b"]" * 64))) == "[" * 64 + "1" + "]" * 64
    assert parse_json(line_of(b"[" + b",".join([b"[[1]]"] * 1000) + b"]")) == [[[1]]] * 1000


def test_row_21_long_line_is_read_past_without_keeping_it():
    """A line over the cap is refused with its size, the next is read, and memory stays near the cap."""

    class Stream(io.RawIOBase):
        """A gigabyte without a newline, then a short line."""

        left = 2**30

        def readable(self) -> bool:
            return True

        def readinto(self, buffer) -> int:
            if self.left > 0:
                size = min(len(buffer), self.left)
                buffer[:size] = bytes(size)
            else:
                tail = b"\n[1]\n"[-self.left :]
                size = min(len(buffer), len(tail))
                buffer[:size] = tail[:size]
            self.left -= size
            return size

    tracemalloc.start()
    long, short = iter_lines(io.BufferedReader(Stream(), 2**20), max_line_bytes=2**20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    with pytest.raises(RowError) as caught:
        parse_json(long)
    assert caught.value.reason == "expected a line of at most 1,048,576 bytes, found 1,073,741,825 bytes"
    assert (short.number, short.offset, parse_json(short)) == (2, 2**30 + 1, [1])
    assert peak < 8 * 2**20


def test_row_21_cap_is_inclusive():
    """A line of exactly the cap, its newline counted, is read; one byte more is not."""
    fits, long = iter_lines(io.BytesIO(b'"abcd"\n"abcde"\n'), max_line_bytes=7)
    assert parse_json(fits) == "abcd"
    assert reason_of_line(long) == "expected a line of at most 7 bytes, found 8 bytes"


def reason_of_line(line: Line) -> str:
    """Return why a line is refused."""
    with pytest.raises(RowError) as caught:
        parse_json(line)
    return caught.value.reason


def test_iter_lines_opens_a_path(tmp_path: Path):
    """A path, as text too, does as well as a stream."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"1\n2\n")
    assert [parse_json(line) for line in iter_lines(path)] == [1, 2]
    assert [parse_json(line) for line in iter_lines(str(path))] == [1, 2]


def test_kinds_are_named_for_people():
    """What an error message calls each JSON value."""
    values = [None, "x", True, 1, 1.5, [], {}]
    names = [lines.kind_of(value) for value in values]
    assert names == ["null", "a string", "true or false", "a number", "a number", "a list", "an object"]


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text("abé", max_size=3), inner, max_size=4)
    ),
    max_leaves=10,
)


@settings(deadline=None)
@given(json_values, st.booleans())
def test_what_is_proper_json_is_returned_unchanged(value, ascii_only: bool):
    """Strictness costs no valid value, escaped or not."""
    assert parse_json(line_of(json.dumps(value, ensure_ascii=ascii_only).encode())) == value


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_give_values_or_row_errors(data: bytes):
    """No other exception, and lines tile the stream: each one's bytes stand at its offset."""
    for line in iter_lines(io.BytesIO(data), max_line_bytes=64):
        assert data[line.offset :].startswith(line.data)
        with suppress(RowError):
            parse_json(line)


def test_deep_nesting_is_refused_with_little_stack_left():
    """The limit holds however deep the caller already is."""

    def deeper(levels: int) -> str:
        return deeper(levels - 1) if levels else reason_of(b"[" * 70 + b"]" * 70)

    assert deeper(sys.getrecursionlimit() - 300) == "expected at most 64 levels of nesting, found more"
