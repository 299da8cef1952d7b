"""Conversations of every origin become messages of plain text, or are refused."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparserm_cli.data.example import Message, RowError
from sparserm_cli.data.messages import normalise_messages, normalise_prompt, response_of
from sparserm_cli.data.reader import Reader


def turn(content: Any, role: str = "user") -> dict[str, Any]:
    """Return one message."""
    return {"role": role, "content": content}


def part(text: Any, kind: str = "text") -> dict[str, Any]:
    """Return one part."""
    return {"type": kind, "text": text}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("Paris", "Paris"),
        ("", ""),
        ([part("Pa"), part("ris")], "Paris"),
        ([part("Paris", "output_text")], "Paris"),
        ((part("Paris"),), "Paris"),
        (np.array([{"type": "text", "text": "Paris", "image": None}], dtype=object), "Paris"),
    ],
)
def test_row_80_parts_of_text_are_joined(content: Any, text: str) -> None:
    """Whatever kind of list holds them, and with the empty columns that a Parquet file adds."""
    messages = normalise_messages(np.array([{**turn(content), "name": "x"}], dtype=object))
    assert messages == (Message("user", text, '{"name": "x"}'),)
    assert normalise_messages(messages) == messages


@pytest.mark.parametrize(
    ("content", "field", "reason"),
    [
        (None, "m[0].content", "expected a string, found null"),
        (3, "m[0].content", "expected a string, found a number"),
        ({"text": "x"}, "m[0].content", "expected a string, found an object"),
        ([], "m[0].content", "expected at least one part, found an empty list"),
        (["x"], "m[0].content[0]", 'expected a part {"type": "text", "text"}, found a string'),
        (
            [part("x"), {"type": "image"}],
            "m[0].content[1]",
            'expected a part of type text, found one of type "image"',
        ),
        ([{"text": "x"}], "m[0].content[0]", "expected a part of type text, found one without a type"),
        ([part(None)], "m[0].content[0].text", "expected a string, found null"),
        ("\ud800", "m[0].content", "expected Unicode text, found a lone surrogate U+D800"),
        ([part("a\0")], "m[0].content[0].text", "expected Unicode text, found a NUL character"),
    ],
)  # fmt: skip
def test_row_80_what_is_no_text_is_refused(content: Any, field: str, reason: str) -> None:
    """By its place, and never as the way Python prints it."""
    with pytest.raises(RowError) as caught:
        normalise_messages([turn(content)], "m")
    assert (caught.value.field, caught.value.reason) == (field, reason)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([], "expected at least one message, found an empty list"),
        (None, "expected a list of messages, found null"),
        ({"role": "user", "content": "x"}, "expected a list of messages, found an object"),
        ([["user", "x"]], 'expected a message {"role", "content"}, found a list'),
        ([turn("x", "")], "expected a role, found an empty string"),
        ([{"role": "user"}], "expected the key content, found none"),
        (Message("user", "x"), "expected a list of messages, found a Message"),
    ],
)
def test_row_80_what_is_no_conversation_is_refused(value: Any, reason: str) -> None:
    """With what was found instead."""
    with pytest.raises(RowError) as caught:
        normalise_messages(value)
    assert caught.value.reason == reason


def test_row_80_nothing_said_is_no_word() -> None:
    """An assistant that only called tools said nothing."""
    called = normalise_messages(
        [turn("Q"), {**turn(None, "assistant"), "tool_calls": [{"id": 1, "x": None}]}]
    )
    assert called[1] == Message("assistant", "", '{"tool_calls": [{"id": 1}]}')
    assert called[1].plain() == {**turn("", "assistant"), "tool_calls": [{"id": 1}]}


def test_row_80_the_turn_scored_is_the_assistants_last() -> None:
    """A conversation that ends with a tool's words has no response."""
    turns = normalise_messages([turn("Q"), turn("A", "assistant")])
    assert response_of(turns) == ((Message("user", "Q"),), "A")
    with pytest.raises(RowError, match='expected a last turn of the assistant, found one of role "tool"'):
        response_of((*turns, Message("tool", "42")))


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), min_size=1))
def test_row_80_any_text_survives(texts: list[str]) -> None:
    """However it is cut into parts."""
    (message,) = normalise_messages([turn([part(text) for text in texts])])
    assert message.content == "".join(texts)
    assert normalise_prompt(message.content) == message.content


def test_row_80_files_may_hold_parts(tmp_path: Any) -> None:
    """The reader takes them as adapters do, and refuses an image by its place."""
    good = {"messages": [turn([part("Q"), part("?")]), turn([part("A")], "assistant")]}
    bad = {"messages": [turn([{"type": "image"}]), turn("A", "assistant")]}
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in (good, bad)), encoding="utf-8")
    reader = Reader(path, purpose="responses", on_bad_row="reject")
    (example,) = reader
    assert (example.prompt, example.responses) == ((Message("user", "Q?"),), ("A",))
    assert [reject.field for reject in reader.rejects] == ["messages[0].content[0]"]
