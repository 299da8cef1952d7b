"""Rows of the cases through chat templates: what they render or must refuse."""

from pathlib import Path
from typing import Any

import pytest
from helpers.data_cases import FILES, case_file

from sparserm_cli.data.chat_template import PromptTemplate
from sparserm_cli.data.reader import Reader
from sparserm_cli.data.rendering.row_tokenizer import RenderedExample
from sparserm_cli.data.tokenized_rows import tokenized_rows
from sparserm_cli.errors import BadInputError


def template_of(tokenizer: Any, name: str | None, folder: Path) -> PromptTemplate:
    """Return a template of the cases, the tokenizer's own (None), or none at all (raw)."""
    if name in (None, "raw"):
        return PromptTemplate(tokenizer, name, model="tiny")
    path = folder / name
    path.write_text(FILES[f"templates/{name}"])
    return PromptTemplate(tokenizer, str(path), model="tiny")


def rendered(
    name: str, template: PromptTemplate, folder: Path, **options: Any
) -> tuple[Reader, list[RenderedExample]]:
    """Read a file of the cases and return its rows as the text that was tokenised."""
    reader = Reader(case_file(f"data/{name}", folder), purpose="pairs", **options)
    rows = list(tokenized_rows(reader, template, max_length=4096))
    texts = [
        RenderedExample(
            row.example,
            row.prompt_text,
            tuple(_decoded(template, response.response_ids) for response in row.responses),
        )
        for row in rows
    ]
    return reader, texts


def _decoded(template: PromptTemplate, ids: Any) -> str:
    return str(template._tokenizer.decode(ids.tolist()))


QWEN, GEMMA = "qwen3_like.jinja", "gemma_like.jinja"
HISTORIES = ("c1_tools_history_empty_content.jsonl", "c2_tools_history_null_content.jsonl")
CALL = '<tool_call>\n{{"name": "get_weather", "arguments": "{{\\"city\\": \\"{}\\"}}"}}\n</tool_call>'


@pytest.mark.parametrize(
    "name", ["c1_tools_history_empty_content.jsonl", "c2_tools_history_null_content.jsonl"]
)
def test_tools_and_calls_of_the_history_reach_the_template(name: str, tiny_tokenizer: Any, tmp_path: Path):
    """Content that is null is nothing, never a word."""
    _, (row,) = rendered(name, template_of(tiny_tokenizer, QWEN, tmp_path), tmp_path)
    assert row.prompt.startswith("<|im_start|>system\n# Tools\n")
    assert '"description": "Weather of a city"' in row.prompt
    assert f"<|im_start|>assistant\n\n{CALL.format('Oslo')}<|im_end|>\n<|im_start|>tool\n" in row.prompt
    assert "None" not in row.prompt
    assert row.responses == ("It is minus three.", "It is hot.")


def test_a_call_of_a_response_is_what_is_scored(tiny_tokenizer: Any, tmp_path: Path):
    """The words are the same, the cities are not."""
    _, (row,) = rendered(
        "c5_response_tool_call_same_text.jsonl", template_of(tiny_tokenizer, QWEN, tmp_path), tmp_path
    )
    said = "<think>\n\n</think>\n\nLet me look.\n"
    assert row.responses == tuple(said + CALL.format(city) for city in ("Oslo", "Rome"))


@pytest.mark.parametrize(
    ("name", "thoughts", "words"),
    [
        ("d1_reasoning_content.jsonl", ("Two and two is four.", "Guess."), ("4.", "5.")),
        ("d2_thinking_only_differs.jsonl", ("Two and two is four.", "Guess."), ("4.", "4.")),
    ],
)
def test_reasoning_of_a_response_is_rendered(
    name: str, thoughts: tuple[str, str], words: tuple[str, str], tiny_tokenizer: Any, tmp_path: Path
):
    """As the template writes it, without what ends the turn."""
    _, (row,) = rendered(name, template_of(tiny_tokenizer, QWEN, tmp_path), tmp_path)
    expected = [
        f"<think>\n{thought}\n</think>\n\n{said}" for thought, said in zip(thoughts, words, strict=True)
    ]
    assert list(row.responses) == expected


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("c1_tools_history_empty_content.jsonl", "tools"),
        ("c5_response_tool_call_same_text.jsonl", "tools"),
        ("d1_reasoning_content.jsonl", "reasoning_content"),
        ("d2_thinking_only_differs.jsonl", "reasoning_content"),
    ],
)
@pytest.mark.parametrize("kind", [None, "raw"])
def test_what_a_template_leaves_out_is_refused_by_name(
    name: str, key: str, kind: str | None, tiny_tokenizer: Any, tmp_path: Path
):
    """Left out, another conversation would be scored than the one that was judged."""
    template = template_of(tiny_tokenizer, kind, tmp_path)
    with pytest.raises(BadInputError) as caught:
        rendered(name, template, tmp_path)
    shown = "no template" if kind else "one that leaves it out"
    assert f":line 1 (byte 0): expected a chat template that renders {key}, found {shown}" in str(
        caught.value
    )


def test_text_that_has_been_through_the_template_is_not_templated_twice(tiny_tokenizer: Any, tmp_path: Path):
    """It becomes the same text as the messages that it was, and that is said."""
    notes: list[str] = []
    template = template_of(tiny_tokenizer, None, tmp_path)
    reader, (row,) = rendered("m1_templated_strings.jsonl", template, tmp_path, note=notes.append)
    assert row.prompt == "<|im_start|>user\nHi?<|im_end|>\n<|im_start|>assistant\n"
    assert row.responses == ("Yes.", "No.")
    assert reader.templated == 1
    assert "has been through the chat template" in notes[1]


def test_a_row_that_the_template_refuses_is_a_row_error(tiny_tokenizer: Any, tmp_path: Path):
    """With its line; with reject, the others are read."""
    template = template_of(tiny_tokenizer, GEMMA, tmp_path)
    with pytest.raises(BadInputError) as caught:
        rendered("n1_mixed_system.jsonl", template, tmp_path)
    assert "n1_mixed_system.jsonl:line 2 (byte 158): expected a chat template for these turns" in str(
        caught.value
    )
    assert "System role not supported (turns: system, user)" in str(caught.value)
    reader, rows = rendered("n1_mixed_system.jsonl", template, tmp_path, on_bad_row="reject")
    assert [row.example.row for row in rows] == [1, 3]
    assert (reader.read, reader.accepted, reader.rejected) == (3, 2, 1)
    with pytest.raises(BadInputError, match="System role not supported"):
        rendered("b1_system_col.jsonl", template, tmp_path)


def test_a_system_column_is_the_first_message(tiny_tokenizer: Any, tmp_path: Path):
    """It was dropped in silence once."""
    _, rows = rendered("b1_system_col.jsonl", template_of(tiny_tokenizer, None, tmp_path), tmp_path)
    assert rows[0].prompt.startswith(
        "<|im_start|>system\nAnswer like a pirate.<|im_end|>\n<|im_start|>user\n"
    )


def test_a_prompt_that_ends_in_an_assistants_turn_is_continued(tiny_tokenizer: Any, tmp_path: Path):
    """As TRL does: the turn is not closed, and no other is opened."""
    for kind, end in (
        (None, "<|im_start|>assistant\nThe answer is"),
        ("raw", "\n\nAssistant: The answer is"),
    ):
        _, (row,) = rendered("prefill.jsonl", template_of(tiny_tokenizer, kind, tmp_path), tmp_path)
        assert row.prompt.endswith(end)
        assert row.responses == (" 4.", " 5.")
