"""`.json` files: an array, an object that holds one, one row, or JSON lines under the wrong name."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparserm_cli.data.sources import json_array as json_file
from sparserm_cli.data.sources.json_array import json_rows
from sparserm_cli.errors import BadInputError

ROWS = [{"prompt": "é?", "response": "a"}, {"prompt": "b?", "response": "c"}]


def read(path: Path, text: str | bytes, split: str = "train") -> list:
    """Return the rows of a file with this text."""
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return list(json_rows(path, split))


def refusal(path: Path, text: str | bytes, split: str = "train") -> str:
    """Return why the file is refused, without its path."""
    with pytest.raises(BadInputError) as caught:
        read(path, text, split)
    return str(caught.value).removeprefix(str(path))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give the path of a file to be."""
    return tmp_path / "a.json"


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_array_of_rows_with_byte_offsets(path: Path, indent: int | None, bom: bytes):
    """Each row is numbered, and its offset is where its bytes begin."""
    data = bom + json.dumps(ROWS, indent=indent, ensure_ascii=False).encode()
    rows = read(path, data)
    assert [(row.number, row.value) for row in rows] == [(1, ROWS[0]), (2, ROWS[1])]
    assert all(data[row.offset :].startswith(b"{") for row in rows)
    assert data[rows[1].offset :].replace(b" ", b"").replace(b"\n", b"").startswith(b'{"prompt":"b?"')


def test_objects_that_hold_rows(path: Path):
    """The split's array first, then `rows`, then the only array there is."""
    assert [row.value for row in read(path, json.dumps({"version": 1, "rows": ROWS, "tags": ["x"]}))] == ROWS
    assert [row.value for row in read(path, json.dumps({"anything": ROWS}))] == ROWS
    both = json.dumps({"train": ROWS[:1], "test": ROWS[1:]})
    assert [row.value for row in read(path, both, "test")] == ROWS[1:]
    assert [row.value for row in read(path, '{"rows": []}')] == []
    assert refusal(path, both, "dev") == (
        ": expected one array of rows, found several: train, test; name one with --split"
    )


def test_one_row_and_misnamed_json_lines(path: Path):
    """A single object is a row, also one of messages; several objects are lines with their numbers."""
    turns = [{"role": "user", "content": "x"}]
    for row in (ROWS[0], {"chosen": turns, "rejected": turns}, {"messages": turns}):
        assert [line.value for line in read(path, json.dumps(row))] == [row]
    lines = read(path, json.dumps(ROWS[0]) + "\n\n" + json.dumps(ROWS[1]) + "\n")
    assert [(row.number, row.value) for row in lines] == [(1, ROWS[0]), (3, ROWS[1])]


def test_row_19_a_bad_row_of_an_array_is_refused_alone(path: Path):
    """NaN, duplicate keys and huge numbers spoil one row, not the file."""
    nested = "[" * 80 + "]" * 80
    rows = read(path, f'[{{"a": NaN}}, {{"a": 1, "a": 1}}, {"9" * 5000}, {nested}, {{"a": 1}}]')
    assert [row.error and row.error.found for row in rows] == [
        "NaN", 'the key "a" more than once', "one of 5000 digits", "more", None,
    ]  # fmt: skip
    assert rows[-1].value == {"a": 1}


def test_row_16_cut_and_broken_files(path: Path):
    """An error of the whole file names the byte."""
    assert (
        refusal(path, '[{"a": 1}, {"a": ')
        == ":byte 17: expected JSON, found expecting value; repair the file"
    )
    assert refusal(path, '[{"a": 1} {"a": 2}]') == (
        ":byte 10: expected JSON, found expecting ',' delimiter; repair the file"
    )
    assert refusal(path, '[{"é": 1}] x') == ":byte 12: expected JSON, found extra data; repair the file"
    assert (
        refusal(path, b'["\xff"]') == ":byte 2: expected UTF-8 text, found byte 0xff; save the file as UTF-8"
    )
    assert refusal(path, "3") == ": expected an array of rows, found another JSON value; convert it to .jsonl"
    assert refusal(path, "[" * 100_000) == (
        ": expected at most 64 levels of nesting, found far more; repair the file"
    )


def test_row_20_empty_files_have_no_rows(path: Path):
    """Nothing, white space, and an empty array."""
    assert [read(path, text) for text in ("", " \n", "[]", "[ ]", b"\xef\xbb\xbf")] == [[]] * 5


def test_row_21_too_large_file_is_refused_unread(path: Path, monkeypatch: pytest.MonkeyPatch):
    """A .json file is read whole, so its size is limited."""
    monkeypatch.setattr(json_file, "MAX_FILE_BYTES", 10)
    assert refusal(path, json.dumps(ROWS)).startswith(": expected a .json file of at most 10 bytes, found ")


@settings(deadline=None)
@given(
    st.lists(
        st.dictionaries(st.text('ab"\\é]', max_size=3), st.text('x],{"\\é') | st.lists(st.integers(0, 9))),
        max_size=5,
    ),
    st.booleans(),
)
def test_rows_of_any_array_come_back(tmp_path_factory: pytest.TempPathFactory, rows: list, wrapped: bool):
    """Whatever the values hold, brackets and quotes too."""
    path = tmp_path_factory.getbasetemp() / "any.json"
    value = {"note": "]", "rows": rows} if wrapped else rows
    assert [row.value for row in read(path, json.dumps(value, indent=1, ensure_ascii=False))] == rows
