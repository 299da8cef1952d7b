"""Convert conversations from trainers, servers and files to messages of plain text.

The content of a message is text, or a list of parts as multimodal chat formats write it. Text parts are
joined with nothing between them, as chat templates render them. Content other than text (an image, null, a
number) is refused, so that a value is never scored in the form in which Python prints it.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from sparserm_cli.data.example import Message, RowError
from sparserm_cli.data.sources.strict_json import check_text, kind_of, shown

ASSISTANT = "assistant"
MEANT = ("tool_calls", "function_call", "reasoning_content", "reasoning", "thinking", "tool_plan")
"""Keys of a message that add to its content, so that leaving them out would change its meaning."""
CARRIED = (*MEANT, "name", "tool_call_id")
"""Keys of a message that a chat template may render."""
_TEXT_PARTS = ("text", "input_text", "output_text")


def normalise_messages(value: Any, field: str = "messages") -> tuple[Message, ...]:
    """Return a conversation as messages of plain text.

    Args:
        value: a list, tuple or array of at least one `Message` or mapping with `role` and `content`. Of what
            else a mapping holds, `CARRIED` becomes the message's `extras`. The content may be null in a turn
            of the assistant alone, which then said nothing (it called tools).
        field: where the conversation stands, for the error.

    Raises:
        RowError: the value is not a list, or a message has no role or holds something other than text.

    """
    turns = listed(value)
    if turns is None:
        raise RowError("a list of messages", kind_of(value), field=field)
    if not turns:
        raise RowError("at least one message", "an empty list", field=field)
    return tuple(_message(turn, f"{field}[{place}]") for place, turn in enumerate(turns))


def normalise_prompt(value: Any, field: str = "prompt") -> tuple[Message, ...] | str:
    """Return a prompt: the words of one user turn as they are, or a conversation as messages of plain text.

    Raises:
        RowError: the value is neither.

    """
    return plain_text(value, field) if isinstance(value, str) else normalise_messages(value, field)


def response_of(turns: tuple[Message, ...], field: str = "messages") -> tuple[tuple[Message, ...], str]:
    """Split a conversation into what comes before its last turn and the words of that turn, an assistant's.

    Raises:
        RowError: the last turn is not the assistant's, but for example a tool's.

    """
    last = turns[-1]
    if last.role != ASSISTANT:
        raise RowError("a last turn of the assistant", f"one of role {shown(last.role)}", field=field)
    return turns[:-1], last.content


def plain_text(value: Any, field: str) -> str:
    """Return a value that must be text a tokenizer can read: a string without NUL and lone surrogates.

    Raises:
        RowError: the value is anything else.

    """
    if not isinstance(value, str):
        raise RowError("a string", kind_of(value), field=field)
    try:
        check_text(value)
    except RowError as error:
        raise RowError(error.expected, error.found, field=field) from None
    return value


def listed(value: Any) -> list[Any] | None:
    """Return a list, a tuple or an array (as Parquet files give them) as a list; None for anything else."""
    if isinstance(value, np.ndarray):
        return list(value) if value.ndim == 1 else None
    return list(value) if isinstance(value, list | tuple) and not isinstance(value, Message) else None


def _message(value: Any, field: str) -> Message:
    """Return one message as plain text."""
    if isinstance(value, Message):
        role = plain_text(value.role, f"{field}.role")
        return value._replace(role=role, content=plain_text(value.content, f"{field}.content"))
    turn = value
    if not isinstance(turn, Mapping):
        raise RowError('a message {"role", "content"}', kind_of(turn), field=field)
    for key in ("role", "content"):
        if key not in turn:
            raise RowError(f"the key {key}", "none", field=field)
    role = plain_text(turn["role"], f"{field}.role")
    if not role:
        raise RowError("a role", "an empty string", field=f"{field}.role")
    silent = turn["content"] is None and role == ASSISTANT
    return Message(role, "" if silent else _content(turn["content"], f"{field}.content"), _extras(turn))


def _extras(turn: Mapping[str, Any]) -> str:
    """Return as JSON text the keys besides role and content that a template may render."""
    extras = {key: _without_nulls(turn[key]) for key in CARRIED if turn.get(key) is not None}
    kept = {key: value for key, value in extras.items() if value not in ("", [], {})}
    return json.dumps(kept) if kept else ""


def _without_nulls(value: Any) -> Any:
    """Return a value without the keys that Arrow fills with null in objects of one list."""
    if isinstance(value, Mapping):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    items = listed(value)
    return value if items is None else [_without_nulls(item) for item in items]


def _content(value: Any, field: str) -> str:
    """Return the content of a message: text, or parts of text."""
    parts = listed(value)
    if parts is None:
        return plain_text(value, field)
    if not parts:
        raise RowError("at least one part", "an empty list", field=field)
    return "".join(_part(part, f"{field}[{place}]") for place, part in enumerate(parts))


def _part(value: Any, field: str) -> str:
    """Return the text of one part; keys with a null value, as Parquet columns have, are ignored."""
    if not isinstance(value, Mapping):
        raise RowError('a part {"type": "text", "text"}', kind_of(value), field=field)
    kind = value.get("type")
    if not isinstance(kind, str) or kind not in _TEXT_PARTS:
        found = f"one of type {shown(kind)}" if isinstance(kind, str) else "one without a type"
        raise RowError("a part of type text", found, field=field)
    return plain_text(value.get("text"), f"{field}.text")
