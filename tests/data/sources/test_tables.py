"""CSV and parquet: numbering, strictness, streaming."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sparserm_cli.data.example import RawRow
from sparserm_cli.data.sources.tables import csv_rows, parquet_rows
from sparserm_cli.errors import BadInputError


def read_csv(tmp_path: Path, data: bytes) -> list[RawRow]:
    """Return the rows of a CSV file with these bytes."""
    path = tmp_path / "a.csv"
    path.write_bytes(data)
    return list(csv_rows(path))


def reasons(rows: list[RawRow]) -> list[str | None]:
    """Return each row's fault."""
    return [row.error.reason if row.error else None for row in rows]


def test_row_17_csv_bom_crlf_blank_lines_and_quoted_line_ends(tmp_path: Path):
    """Records are counted from 1, whatever lines they take; the offset is a byte offset."""
    data = '\ufeffprompt,response\r\n"é, or\nnot?",a\r\n\r\nb?,"say ""c"""\r\n'.encode()
    rows = read_csv(tmp_path, data)
    assert [(row.number, row.value) for row in rows] == [
        (1, {"prompt": "é, or\nnot?", "response": "a"}),
        (2, {"prompt": "b?", "response": 'say "c"'}),
    ]
    assert data[rows[0].offset :].startswith('"é, or'.encode())
    assert data[rows[1].offset :].startswith(b"b?,")


def test_row_17_csv_invalid_utf8_refuses_only_its_record(tmp_path: Path):
    """The record is read to its end, so that the next one is not lost."""
    rows = read_csv(tmp_path, b'prompt,response\n"caf\xe9\nx",a\nb,c\n')
    assert reasons(rows) == ["expected UTF-8 text, found byte 0xe9 at byte 20", None]
    assert (rows[1].number, rows[1].value) == (2, {"prompt": "b", "response": "c"})


def test_row_18_csv_records_of_another_length(tmp_path: Path):
    """Too few and too many cells are refused, not filled or dropped."""
    rows = read_csv(tmp_path, b"a,b\n1\n1,2,3\n1,2\n")
    messages = [
        "expected 2 cells as in the header, found 1",
        "expected 2 cells as in the header, found 3",
        None,
    ]
    assert reasons(rows) == messages


def test_row_19_csv_nul_and_broken_quotes(tmp_path: Path):
    """A NUL character, text after a closing quote, and a quote that is never closed."""
    rows = read_csv(tmp_path, b'a,b\nx\0,1\n"x"y,1\nok,1\n"open,1\n')
    assert reasons(rows) == [
        "expected Unicode text, found a NUL character",
        "expected CSV, found ',' expected after '\"'",
        None,
        "expected CSV, found unexpected end of data",
    ]
    assert [row.number for row in rows] == [1, 2, 3, 4]


def test_csv_headers_that_are_refused(tmp_path: Path):
    """A column named twice would lose one of the two; a header must be text."""
    with pytest.raises(BadInputError) as caught:
        read_csv(tmp_path, b"a,b,a\n1,2,3\n")
    where = f"{tmp_path / 'a.csv'}:line 1"
    assert str(caught.value) == f'{where}: expected each column once, found "a" twice; rename a column'
    with pytest.raises(BadInputError, match="expected a CSV header, found expected UTF-8 text"):
        read_csv(tmp_path, b"a,\xff\n1,2\n")


def test_row_20_csv_without_records(tmp_path: Path):
    """Nothing, or a header alone, are no rows."""
    assert read_csv(tmp_path, b"") == []
    assert read_csv(tmp_path, b"a,b\n") == []


def test_row_21_csv_quote_that_swallows_the_file_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An open quote ends at the cell limit instead of taking all memory."""
    monkeypatch.setattr("sparserm_cli.data.sources.tables.MAX_LINE_BYTES", 1000)
    rows = read_csv(tmp_path, b'a\n"open\n' + b"x" * 99 + b"\n" + b"1\n" * 2000)
    assert reasons(rows)[0] == "expected CSV, found field larger than field limit (1000)"


def test_parquet_rows_stream_over_row_groups(tmp_path: Path):
    """Lists and nulls come as Python has them; numbers run on over row groups."""
    path = tmp_path / "a.parquet"
    values = [{"prompt": f"p{i}", "chosen": ["a"], "n": i, "x": None} for i in range(700)]
    pq.write_table(pa.Table.from_pylist(values), path, row_group_size=100)
    rows = list(parquet_rows(path))
    assert [row.value for row in rows] == values
    assert [row.number for row in rows] == list(range(1, 701))
    assert rows[0].offset is None
    assert rows[0].data == b'{"prompt": "p0", "chosen": ["a"], "n": 0, "x": null}'


def test_row_19_parquet_nul_character(tmp_path: Path):
    """The checks of JSON lines hold for a table's text too."""
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"prompt": ["a\0b", "c"]}), path)
    assert reasons(list(parquet_rows(path))) == ["expected Unicode text, found a NUL character", None]


def test_row_16_cut_and_false_parquet(tmp_path: Path):
    """One line that names the file, whatever pyarrow says."""
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"prompt": ["a"] * 1000}), path)
    data = path.read_bytes()
    for bad in (data[: len(data) // 2], b"not parquet at all", b""):
        path.write_bytes(bad)
        with pytest.raises(BadInputError) as caught:
            list(parquet_rows(path))
        message = str(caught.value)
        assert message.startswith(f"{path}:after row 0: expected a whole parquet file, found ")
        assert "\n" not in message
