"""Rows to token ids through the reader: what has no token or too many is refused and counted."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import normalizers

from sparserm_cli.data.chat_template import PromptTemplate
from sparserm_cli.data.reader import Reader
from sparserm_cli.data.tokenized_rows import tokenized_rows
from sparserm_cli.errors import BadInputError


@pytest.fixture
def template(tiny_tokenizer: Any) -> PromptTemplate:
    """Give one token a byte and no chat template."""
    return PromptTemplate(tiny_tokenizer, "raw")


def reader_of(path: Path, *rows: tuple[str, str, str], on_bad_row: Any = "error") -> Reader:
    """Return a reader of preference rows."""
    keys = ("prompt", "chosen", "rejected")
    path.write_text("".join(json.dumps(dict(zip(keys, row, strict=True))) + "\n" for row in rows))
    return Reader(path, purpose="pairs", on_bad_row=on_bad_row)


LONG = ("x" * 20, "y" * 5, "z" * 3)


def test_rows_that_fit_come_in_order(tmp_path: Path, template: PromptTemplate):
    """More rows than one batch; each response has its tokens."""
    rows = [(f"p{i}", "a" * (i % 7 + 1), "b") for i in range(600)]
    tokenized = list(tokenized_rows(reader_of(tmp_path / "a.jsonl", *rows), template, max_length=64))
    assert [item.prompt_text for item in tokenized] == [row[0] for row in rows]
    assert [len(item.responses[0].response_ids) for item in tokenized] == [len(row[1]) for row in rows]


def test_row_24_over_long_rows_stop_by_default(tmp_path: Path, template: PromptTemplate):
    """With the line, the count and the options that would go on; also where bad rows are rejected."""
    path = tmp_path / "a.jsonl"
    reader = reader_of(path, ("p", "a", "b"), LONG, on_bad_row="reject")
    with pytest.raises(BadInputError) as caught:
        list(tokenized_rows(reader, template, max_length=24))
    assert str(caught.value) == (
        f"{path}:line 2 (byte 48): expected at most 24 tokens, found 25 in response 1; "
        "raise --max-length, or use --too-long reject or truncate-left"
    )
    assert (reader.read, reader.accepted, reader.rejected) == (2, 1, 1)


def test_row_24_over_long_rows_may_be_rejected(tmp_path: Path, template: PromptTemplate):
    """They are counted as rejected, even where other bad rows would stop."""
    reader = reader_of(tmp_path / "a.jsonl", ("p", "a", "b"), LONG)
    tokenized = list(tokenized_rows(reader, template, max_length=24, too_long="reject"))
    assert [item.example.row for item in tokenized] == [1]
    assert (reader.read, reader.accepted, reader.rejected) == (2, 1, 1)
    assert [(reject.row, reject.reason) for reject in reader.rejects] == [
        (2, "expected at most 24 tokens, found 25 in response 1")
    ]


def test_row_24_over_long_prompts_may_be_cut_on_the_left(tmp_path: Path, template: PromptTemplate):
    """Only the responses that do not fit lose prompt tokens, and say so; a response is never cut."""
    reader = reader_of(tmp_path / "a.jsonl", LONG, ("p", "a", "b" * 24), on_bad_row="reject")
    (tokenized,) = tokenized_rows(reader, template, max_length=24, too_long="truncate-left")
    chosen, rejected = tokenized.responses
    assert (len(chosen.prompt_ids), len(chosen.response_ids), chosen.truncated) == (19, 5, True)
    assert (len(rejected.prompt_ids), len(rejected.response_ids), rejected.truncated) == (20, 3, False)
    assert [reject.reason for reject in reader.rejects] == [
        "expected at most 24 tokens, found 24 in response 2 without its prompt"
    ]


def test_row_23_response_without_tokens(tmp_path: Path, tiny_tokenizer: Any):
    """A normaliser may leave nothing of a response; there would be no row to pool."""
    tiny_tokenizer.backend_tokenizer.normalizer = normalizers.Replace("~", "")
    try:
        template = PromptTemplate(tiny_tokenizer, "raw")
    finally:
        tiny_tokenizer.backend_tokenizer.normalizer = normalizers.Sequence([])
    rows = (("p", "~a", "b"), ("p", "~~~", "b"))
    reader = reader_of(tmp_path / "a.jsonl", *rows, on_bad_row="reject")
    (tokenized,) = tokenized_rows(reader, template, max_length=24)
    assert [len(response.response_ids) for response in tokenized.responses] == [1, 1]
    assert reader.rejects[0].reason == "expected a response with tokens, found none in response 1"
    strict = reader_of(tmp_path / "b.jsonl", *rows)
    with pytest.raises(
        BadInputError, match=r"line 2 .*expected a response with tokens, found none in response 1"
    ):
        list(tokenized_rows(strict, template, max_length=24))


def test_row_20_nothing_left_is_an_error(tmp_path: Path, template: PromptTemplate):
    """A run on no rows would make empty artifacts."""
    reader = reader_of(tmp_path / "a.jsonl", LONG, LONG)
    with pytest.raises(
        BadInputError, match="expected at least one row, found 2 rows, all rejected: expected at most 24"
    ):
        list(tokenized_rows(reader, template, max_length=24, too_long="reject"))
