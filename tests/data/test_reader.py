"""The reader: counts that always add up, refusals that name line, byte and field, and no traceback ever."""

import gzip
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparserm_cli.data.example import Reject
from sparserm_cli.data.reader import KEPT_REJECTS, Reader
from sparserm_cli.errors import BadInputError

BENCHMARKS = os.environ.get("SPARSERM_BENCHMARK_DATA") or Path(__file__).parents[3] / "shared" / "data"
GOOD = {"prompt": "a?", "chosen": "b", "rejected": "c"}


def written(path: Path, *rows: Any) -> Path:
    """Write rows as JSON lines; bytes are written as they are."""
    path.write_bytes(
        b"".join(row if isinstance(row, bytes) else json.dumps(row).encode() + b"\n" for row in rows)
    )
    return path


def refusal(path: Path, **options: Any) -> str:
    """Return the error of reading a file."""
    with pytest.raises(BadInputError) as caught:
        list(Reader(path, **{"purpose": "pairs", **options}))
    return str(caught.value)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give the path of a file to be."""
    return tmp_path / "pairs.jsonl"


def test_counts_shape_and_rows(path: Path):
    """A clean file: all read, all accepted, the shape named."""
    reader = Reader(written(path, GOOD, {**GOOD, "prompt": "d?"}), purpose="pairs")
    assert reader.shape == ""
    assert [(example.row, example.offset, example.prompt) for example in reader] == [
        (1, 0, "a?"),
        (2, 49, "d?"),
    ]
    assert (reader.shape, reader.read, reader.accepted, reader.rejected) == ("preference", 2, 2, 0)
    assert reader.inputs[0].bytes == path.stat().st_size
    with pytest.raises(RuntimeError, match="iterated once"):
        next(iter(reader))


HINT = "repair the row, or use --on-bad-row reject"


def test_row_16_cut_last_line(path: Path):
    """The error names file, line and byte; with reject, whole rows are kept and the cut one is counted."""
    written(path, GOOD, b'{"prompt": "x", "cho')
    assert refusal(path) == (
        f"{path}:line 2 (byte 49): expected a whole line, found a line cut short at byte 69, "
        f"the end of the file; {HINT}"
    )
    reader = Reader(path, purpose="pairs", on_bad_row="reject")
    assert len(list(reader)) == 1
    assert (reader.read, reader.accepted, reader.rejected) == (2, 1, 1)
    cut = "expected a whole line, found a line cut short at byte 69, the end of the file"
    assert reader.rejects == [Reject(2, 49, "", cut, '{"prompt": "x", "cho')]


def test_row_18_field_is_named_by_the_column_of_the_file(path: Path):
    """With a mapping, the user's own name stands in the error."""
    written(
        path,
        {"question": "a?", "chosen": "b", "rejected": "c"},
        {"question": None, "chosen": "b", "rejected": "c"},
    )
    assert refusal(path, columns={"prompt": "question"}) == (
        f"{path}:line 2 (byte 51), field question: expected a value, found null; {HINT}"
    )


def test_columns_are_mapped(path: Path):
    """A mapped column stands for the canonical one; a column of that name in the file gives way."""
    row = {"prompt": "template name", "question": "a?", "good": "b", "rejected": "c", "note": 1}
    reader = Reader(written(path, row), purpose="pairs", columns={"prompt": "question", "chosen": "good"})
    (example,) = reader
    assert (example.prompt, example.responses, example.extra) == ("a?", ("b", "c"), {"note": 1})
    swapped = Reader(
        path, purpose="pairs", columns={"chosen": "rejected", "rejected": "good", "prompt": "question"}
    )
    assert next(iter(swapped)).responses == ("c", "b")


@pytest.mark.parametrize("value", [[1], "text", 3, None, True])
def test_row_18_a_row_must_be_an_object(path: Path, value: Any):
    """A JSON line that is no object is refused, not turned into one."""
    assert ": expected an object, found " in refusal(written(path, GOOD, value))


def test_row_19_kinds_of_bad_lines_are_all_counted(path: Path):
    """Each refused line has its number, its place and its reason."""
    lines = [
        b'{"prompt": "a", "prompt": "b", "chosen": "c", "rejected": "d"}\n',
        b'{"prompt": NaN}\n',
        b'{"prompt": "\\ud800", "chosen": "c", "rejected": "d"}\n',
        b'{"prompt": "\\u0000", "chosen": "c", "rejected": "d"}\n',
        b'{"n": 123456789012345678901234567890}\n',
        b"[" * 5000 + b"]" * 5000 + b"\n",
        b'{"prompt": "\xff"}\n',
    ]
    reader = Reader(written(path, *lines, GOOD), purpose="pairs", on_bad_row="reject")
    assert [example.row for example in reader] == [8]
    assert (reader.read, reader.accepted, reader.rejected) == (8, 1, 7)
    assert [reject.reason.partition(", found ")[2] for reject in reader.rejects] == [
        'the key "prompt" more than once', "NaN", "a lone surrogate U+D800", "a NUL character",
        "one of 30 digits", "more", f"byte 0xff at byte {sum(map(len, lines[:6])) + 12}",
    ]  # fmt: skip
    assert [reject.offset for reject in reader.rejects] == [sum(map(len, lines[:i])) for i in range(7)]
    assert all(len(reject.excerpt) <= 200 for reject in reader.rejects)


@pytest.mark.parametrize("data", [b"", b"\n \r\n", b"\xef\xbb\xbf"])
def test_row_20_empty_file(path: Path, data: bytes):
    """No rows is an error, not an empty result."""
    assert (
        refusal(written(path, data))
        == f"{path}: expected at least one row, found no rows; give a file with rows"
    )


def test_row_20_no_accepted_rows(path: Path):
    """Rejecting everything is an error too, and shows the first reason."""
    path = written(path, {"a": 1}, {"a": 2})
    assert refusal(path, on_bad_row="reject") == (
        f"{path}: expected at least one row, found 2 rows, all rejected: expected columns of a known shape; "
        "use --column prompt=NAME --column chosen=NAME --column rejected=NAME, "
        'found "a"; give a file with rows'
    )


def test_purpose_pairs_needs_labels(path: Path):
    """Rows to score cannot be fitted on."""
    assert refusal(written(path, {"prompt": "a", "response": "b"})) == (
        f"{path}:line 1 (byte 0): expected the columns chosen and rejected, "
        f"found rows of the shape prompt and response; {HINT}"
    )


def test_row_22_duplicates_and_identical_pairs_are_counted(path: Path):
    """They are no errors, but the user is told how many there are."""
    rows = [GOOD, {**GOOD, "id": "again"}, {**GOOD, "rejected": "b"}, {**GOOD, "prompt": "other?"}, GOOD]
    reader = Reader(written(path, *rows), purpose="pairs")
    assert len(list(reader)) == 5
    assert (reader.duplicates, reader.identical_pairs) == (2, 1)


def test_row_22_duplicates_among_several_responses(path: Path):
    """Every chosen x rejected is a pair; for scoring nothing is counted, so that no memory grows."""
    row = {"prompt": "a", "chosen": ["b", "c", "b"], "rejected": ["d", "b"]}
    reader = Reader(written(path, row), purpose="pairs")
    list(reader)
    assert (reader.duplicates, reader.identical_pairs) == (2, 2)  # b-d and b-b twice; b-b is the same text
    scoring = Reader(path, purpose="responses")
    list(scoring)
    assert (scoring.duplicates, scoring.identical_pairs) == (0, 0)


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 99])
def test_limit_counts_rows_read(path: Path, limit: int):
    """Bad rows are rows read; the sum holds at every limit."""
    reader = Reader(
        written(path, GOOD, b"{bad\n", GOOD, GOOD), purpose="pairs", limit=limit, on_bad_row="reject"
    )
    numbers = [example.row for example in reader]
    assert numbers == [row for row in (1, 3, 4) if row <= limit]
    assert (reader.read, reader.accepted) == (min(limit, 4), len(numbers))
    assert reader.accepted + reader.rejected == reader.read


def test_limit_reads_no_further(tmp_path: Path):
    """What comes after the limit is not even looked at: here, the place where the file is cut."""
    path = tmp_path / "a.jsonl.gz"
    lines = b"".join(json.dumps({**GOOD, "n": i * i}).encode() + b"\n" for i in range(5000))
    path.write_bytes(gzip.compress(lines)[:9000])
    assert len(list(Reader(path, purpose="pairs", limit=10))) == 10
    assert refusal(path).endswith("expected a whole gzip file, found a cut one; copy the file again")


def test_a_later_step_may_refuse_a_row(path: Path):
    """What tokenising finds goes through the reader too, so that the counts stay right."""
    reader = Reader(written(path, GOOD, GOOD, GOOD), purpose="pairs", on_bad_row="reject")
    for example in reader:
        if example.row == 2:
            reader.reject_row(example.row, "too many tokens", offset=example.offset, excerpt="x" * 300)
        assert reader.accepted + reader.rejected == reader.read == example.row
    assert (reader.read, reader.accepted, reader.rejected) == (3, 2, 1)
    assert reader.rejects == [Reject(2, 49, "", "too many tokens", "x" * 200)]
    strict = Reader(path, purpose="pairs")
    next(iter(strict))
    with pytest.raises(BadInputError) as caught:
        strict.reject_row(1, "too many tokens", offset=0)
    assert (
        str(caught.value) == f"{path}:line 1 (byte 0): expected a usable row, found too many tokens; {HINT}"
    )
    assert (strict.read, strict.accepted, strict.rejected) == (1, 0, 1)


def test_refused_rows_go_to_the_sink_or_are_kept_up_to_a_bound(path: Path):
    """A file of a billion bad rows must not fill memory."""
    written(path, *[b"{\n"] * 500, GOOD)
    seen: list[Reject] = []
    reader = Reader(path, purpose="pairs", on_bad_row="reject", sink=seen.append)
    list(reader)
    assert (len(seen), reader.rejects, reader.rejected) == (500, [], 500)
    reader = Reader(path, purpose="pairs", on_bad_row="reject")
    list(reader)
    assert (len(reader.rejects), reader.rejected) == (KEPT_REJECTS, 500)


def test_formats_give_the_same_examples(tmp_path: Path):
    """JSON lines, gzip, an array, CSV and parquet of one content."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"prompt": f"é {i}?", "chosen": "b, c", "rejected": 'd "e"\nf'} for i in range(3)]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (tmp_path / "a.jsonl").write_bytes(lines)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines))
    (tmp_path / "a.json").write_text(json.dumps(rows))
    records = "".join('"{prompt}","{chosen}","d ""e""\nf"\n'.format(**row) for row in rows)
    (tmp_path / "a.csv").write_text("prompt,chosen,rejected\n" + records, encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    by_format = {
        path.name: [(example.prompt, example.responses) for example in Reader(path, purpose="pairs")]
        for path in sorted(tmp_path.iterdir())
    }
    assert len(by_format) == 5
    assert all(
        examples == [(row["prompt"], (row["chosen"], row["rejected"])) for row in rows]
        for examples in by_format.values()
    )


BASES = [json.dumps(row).encode() for row in (
    GOOD,
    {"prompt": [{"role": "user", "content": "é"}], "chosen": [{"role": "assistant", "content": "b"}],
     "rejected": [{"role": "assistant", "content": "c"}], "id": 3},
    {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"},
    {"prompt": "a", "chosen": ["b", "é\U0001f642"], "rejected": ["c"], "x": {"y": [1, 2.5, None, True]}},
)]  # fmt: skip
TOKENS = [
    b"NaN", b"\\u0000", b"\\ud800", b'"', b"{", b"[", b"]", b"}", b",", b"\xff", b"\0", b"1e999", b"null",
    b"[" * 999,
]  # fmt: skip
# Where (as a share of the line), what to put there, how many bytes to take away.
edits = st.tuples(
    st.floats(0, 1), st.sampled_from(TOKENS) | st.binary(max_size=3), st.integers(0, 9) | st.just(10**6)
)


@pytest.mark.slow
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(BASES),
    st.lists(st.lists(edits, max_size=3), min_size=50, max_size=50),
)
def test_mutated_lines_never_give_a_traceback_or_lose_a_row(tmp_path: Path, base: bytes, changes: list):
    """10,000 lines with bytes put in, taken out or cut: each is accepted or refused, and counted."""
    lines = [mutated(base, line) for line in changes]
    path = written(tmp_path / "mutated.jsonl", base + b"\n" + b"\n".join(lines))
    reader = Reader(path, purpose="pairs", on_bad_row="reject")
    accepted = sum(1 for _ in reader)
    assert reader.read == 1 + sum(bool(line.strip()) for line in lines)
    assert (reader.accepted, reader.accepted + reader.rejected) == (accepted, reader.read)
    assert all("\n" not in reject.reason for reject in reader.rejects)


def mutated(line: bytes, changes: list[tuple[float, bytes, int]]) -> bytes:
    """Return a line with these edits, still one line."""
    data = bytearray(line)
    for share, token, gone in changes:
        at = round(share * len(data))
        data[at : at + gone] = token
    return bytes(data).replace(b"\n", b" ")


row_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text("a é\n", max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)
columns = ["prompt", "chosen", "rejected", "response", "completion", "responses", "messages", "id", "subset",
           "Question", "Correct Answers", "Incorrect Answers"]  # fmt: skip
any_rows = st.lists(
    st.dictionaries(st.sampled_from(columns), row_values, max_size=5) | row_values, max_size=6
)


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(any_rows, st.sampled_from(["pairs", "responses"]), st.booleans())
def test_rows_of_any_values_are_accepted_or_refused(tmp_path: Path, rows: list, purpose: Any, reject: bool):
    """Whatever the columns hold; only `BadInputError` leaves the reader, and the sum always holds."""
    path = written(tmp_path / "any.jsonl", *rows)
    reader = Reader(path, purpose=purpose, on_bad_row="reject" if reject else "error")
    examples = []
    with suppress(BadInputError):
        examples.extend(reader)
    assert all(len(example.responses) == len(example.sides) > 0 for example in examples)
    assert all(response.strip() for example in examples for response in example.responses)
    assert not reject or reader.accepted == len(examples)
    assert reader.accepted + reader.rejected == reader.read


def benchmark(name: str) -> Path:
    """Return a benchmark's file, which is not shipped, or skip."""
    path = Path(BENCHMARKS) / name
    if not path.exists():
        pytest.skip(f"{name} is not here; SPARSERM_BENCHMARK_DATA names the folder that has it")
    return path


def test_row_23_hh_rlhf_rows_without_a_shared_prompt_or_a_response():
    """Of 2,312 transcripts 5 do not share their prompt and 4 end in an empty turn."""
    reader = Reader(benchmark("hh-rlhf-harmless-base-test.jsonl.gz"), purpose="pairs", on_bad_row="reject")
    assert sum(1 for _ in reader) == 2303
    assert (reader.shape, reader.read, reader.rejected) == ("hh-rlhf", 2312, 9)
    empty = [reject.row for reject in reader.rejects if reject.reason.endswith("found an empty string")]
    assert empty == [87, 517, 926, 1104]
    assert all(reject.reason.startswith("expected the prompt of chosen") for reject in reader.rejects[4:])


def test_truthfulqa_pairs():
    """813 questions give 12,265 pairs."""
    reader = Reader(benchmark("TruthfulQA.csv"), purpose="pairs")
    assert sum(example.sides.count(1) * example.sides.count(-1) for example in reader) == 12_265
    assert (reader.shape, reader.read) == ("truthfulqa", 813)
