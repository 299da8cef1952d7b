"""Opening a source: suffixes, gzip, digests, and what is taken for a data set of the hub."""

import gzip
import hashlib
import json
import os
from pathlib import Path

import pytest

from sparserm_cli.data.example import InputFile, RawRow
from sparserm_cli.data.sources.open import SUFFIXES, is_hub_name, open_source
from sparserm_cli.errors import BadInputError

ROWS = [{"prompt": "é?", "response": "a"}, {"prompt": "b?", "response": "c"}]
JSONL = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def refusal(path: Path) -> str:
    """Return the error of opening and reading a file."""
    with pytest.raises(BadInputError) as caught:
        list(open_source(path).rows())
    return str(caught.value)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "A.JSONL", "with space é.jsonl", "x.y.jsonl.gz"])
def test_lines_and_gzipped_lines_give_the_same_rows(tmp_path: Path, name: str):
    """Numbers and offsets count the text, compressed or not."""
    path = tmp_path / name
    path.write_bytes(gzip.compress(JSONL) if name.endswith("gz") else JSONL)
    source = open_source(path)
    rows = list(source.rows())
    assert source.unit == "line"
    assert [(row.number, row.offset, row.value) for row in rows] == [(1, 0, ROWS[0]), (2, 35, ROWS[1])]


@pytest.mark.parametrize("how", ["alone", "in a folder", "in a pattern", "in a list"])
def test_row_94_a_pipe_among_the_data_is_not_waited_for(tmp_path: Path, how: str):
    """Nor left out in silence, where a folder, a pattern or a list names it beside others."""
    pipe = tmp_path / "b.jsonl"
    os.mkfifo(pipe)
    (tmp_path / "a.jsonl").write_bytes(JSONL)
    (tmp_path / "folder.jsonl").mkdir()
    named = {
        "alone": pipe,
        "in a folder": tmp_path,
        "in a pattern": tmp_path / "*.jsonl",
        "in a list": f"{tmp_path / 'a.jsonl'},{pipe}",
    }
    with pytest.raises(BadInputError) as caught:
        open_source(named[how])
    assert str(caught.value) == (
        f"{pipe}: expected a file, found a pipe; move it away and run the same command again"
    )


def test_row_103_a_folder_of_ten_thousand_shards(tmp_path: Path):
    """Read in the order of their names, numbered throughout, each row with its place."""
    count = 10_000
    for number in range(count):
        (tmp_path / f"{number:05d}.jsonl").write_bytes(b'{"prompt": "p", "response": "%d"}\n' % number)
    source = open_source(tmp_path)
    rows = [(row.number, row.value["response"]) for row in source.rows()]
    assert rows == [(number + 1, str(number)) for number in range(count)]
    assert source.where(count) == f"{tmp_path}/{count - 1:05d}.jsonl:line 1"
    assert len(source.inputs()) == count


def test_inputs_are_known_before_reading(tmp_path: Path):
    """The digest is that of the bytes on disk, and of all of them."""
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(JSONL))
    data = path.read_bytes()
    assert open_source(path).inputs() == (InputFile(str(path), len(data), hashlib.sha256(data).hexdigest()),)


def test_row_16_cut_gzip_is_an_error_with_its_place(tmp_path: Path):
    """Rows before the cut were whole; what is missing after it nobody can know."""
    path = tmp_path / "a.jsonl.gz"
    text = JSONL + b"".join(b'{"prompt": "%d", "response": "y"}\n' % i for i in range(2000))
    packed = gzip.compress(text)
    path.write_bytes(packed[: len(packed) // 2])
    seen: list[RawRow] = []
    with pytest.raises(BadInputError) as caught:
        seen.extend(open_source(path).rows())
    last = seen[-1]
    assert seen == list(open_source(_written(tmp_path / "b.jsonl", text)).rows())[: len(seen)]
    assert len(seen) > 100
    where, _, rest = str(caught.value).partition(" of the text: ")
    assert rest == "expected a whole gzip file, found a cut one; copy the file again"
    assert int(where.removeprefix(f"{path}:after byte ")) >= (last.offset or 0)


def test_damaged_and_false_gzip_are_errors(tmp_path: Path):
    """A flipped checksum and a plain file under the wrong name."""
    packed = bytearray(gzip.compress(JSONL))
    packed[-6] ^= 1
    path = _written(tmp_path / "a.jsonl.gz", bytes(packed))
    assert "expected a whole gzip file, found a damaged one: crc check failed" in refusal(path)
    path = _written(tmp_path / "b.jsonl.gz", JSONL)
    assert "after byte 0 of the text: expected a whole gzip file, found a damaged one" in refusal(path)


def test_missing_file_folder_and_unknown_ending(tmp_path: Path):
    """Each is refused before anything is read, with what would do."""
    hint = "give the path of a file, or owner/name of a Hugging Face data set"
    path = tmp_path / "no.jsonl"
    assert refusal(path) == f"{path}: expected a data file, found no such file; {hint}"
    endings = ", ".join(SUFFIXES)
    none = f"expected files ending in {endings}, found none; the split asked for is train: see --split"
    assert refusal(tmp_path) == f"{tmp_path}: {none}"
    path = _written(tmp_path / "a.txt", JSONL)
    assert refusal(path) == f"{path}: expected a file ending in {endings}, found .txt; rename or convert it"


def test_hub_names_are_told_from_paths():
    """A name with an ending, a dot in front or without an owner is a path."""
    names = ["a/b", "allenai/reward-bench-2", "a/b:config", "a/b@v1.0", "a/b:c@refs/pr/1"]
    assert all(is_hub_name(name) for name in names)
    paths = [
        "pairs",
        "a/b.jsonl",
        "./a/b",
        "../a/b",
        "a/b/c",
        "/a/b",
        "a b/c",
        "data/x.csv",
        "data/x.jsonl.gz",
    ]
    assert not any(is_hub_name(path) for path in paths)


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path
