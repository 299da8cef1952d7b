"""Find the conversation before the response in a row: the question, the history and the system text."""

import json
import re
from typing import Any

from sparserm_cli.data import fields
from sparserm_cli.data.example import Message, RowError
from sparserm_cli.data.shapes.shape import Row
from sparserm_cli.data.shapes.values import is_messages, messages, open_transcript
from sparserm_cli.data.sources.strict_json import kind_of, shown

PROMPT_NAMES = (
    "prompt",
    "question",
    "instruction",
    "input",
    "query",
    "trajectory",
    "messages",
    "conversations",
    "conversation",
    "context",
    "history",
    "problem",
)
"""Columns that hold the question unless the user maps another; the first that a file has is used."""

_PICTURES = ("images", "image", "videos", "video", "audios", "audio")


def prompt_name(row: Row) -> str | None:
    """Return the column of the first row that holds the question by its name; None if none does."""
    return next((name for name in PROMPT_NAMES if row.values.get(name) not in (None, "", [])), None)


def prompt(row: Row) -> tuple[Message, ...] | str:
    """Return the conversation before the response; a string is a single user turn.

    Raises:
        RowError: there is none, it is empty, or it holds pictures.

    """
    _no_pictures(row)
    return with_system(row, _question(row))


def with_system(row: Row, conversation: tuple[Message, ...] | str) -> tuple[Message, ...] | str:
    """Put the text of a `system` column first, unless the conversation already begins with a system turn."""
    system = row.get("system")
    if isinstance(system, list):
        # A list holds one system text per answer; it belongs to the prompt only if all answers had the same.
        system = system[0] if system and all(text == system[0] for text in system) else None
    if system is None or system == "":
        return conversation
    if not isinstance(system, str):
        raise RowError("a string", kind_of(system), field=row.path("system"))
    if not system.strip():
        return conversation
    turns = (Message("user", conversation),) if isinstance(conversation, str) else conversation
    if turns and turns[0].role == "system":
        if turns[0].content.strip() != system.strip():
            raise RowError("one system text", "another in the messages", field=row.path("system"))
        return turns
    return (Message("system", system), *turns)


def tools(row: Row) -> str:
    """Return the tools that a row offers, as JSON text; empty if it offers none."""
    offered = row.get("tools")
    if isinstance(offered, str) and offered.strip():
        try:
            offered = json.loads(offered)
        except ValueError:
            raise RowError("a list of tools", "text", field=row.path("tools")) from None
    if offered in (None, "", [], {}):
        return ""
    if not isinstance(offered, list):
        raise RowError("a list of tools", kind_of(offered), field=row.path("tools"))
    return json.dumps(offered)


def perhaps_prompts(row: Row) -> list[str]:
    """Return the unused columns that hold words or messages, one of which may be the question."""
    return [key for key in row.ignored() if key not in _LABELS and _wordy(row.values[key])]


def shared_words(first: str, second: str) -> int:
    """Return the length of the beginning that two texts share, cut back to the end of a word.

    The white space after it stays with what follows, as TRL has it. Two equal texts share all but their last
    word.
    """
    size = min(len(first), len(second))
    cut = next((i for i in range(size) if first[i] != second[i]), size)
    if cut < size and first[cut].isspace() and second[cut].isspace():
        return len(first[:cut].rstrip())
    return len(re.sub(r"\s+\S*$|^\S*$", "", first[:cut]))


_LABELS = {"id", "source", "subset", "domain", "category", "model", "dataset", "language", "split", "task"}
"""Columns that describe a row and are never the question."""


def _question(row: Row) -> tuple[Message, ...] | str:
    """Return the question, without the turns before it."""
    value, path = row.need("prompt"), row.path("prompt")
    if is_messages(value):
        return messages(value, path)
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return _turns_of(value, row, path)
    if isinstance(value, list):
        return messages(value, path)
    words = fields.nonempty(value, path)
    turns = open_transcript(words)
    if turns is not None:
        return turns
    more = row.get("input") if "input" in row.names else None
    return f"{words}\n{more}" if isinstance(more, str) and more.strip() else words


def _turns_of(value: list[Any], row: Row, path: str) -> tuple[Message, ...] | str:
    """Return a list of one question; several need the answers between them."""
    if len(value) > 1:
        raise RowError("one question, or messages", f"{len(value)} strings", field=path)
    return fields.nonempty(value[0], f"{path}[0]")


def _no_pictures(row: Row) -> None:
    """Refuse a row with images or sound, because the words alone would be a different question."""
    for name in _PICTURES:
        value = row.values.get(name)
        if value not in (None, "", [], {}):
            raise RowError("a row of text alone", f"the column {shown(name)}", field=name)


def _wordy(value: Any) -> bool:
    """Whether a value may be a question: more than one word, or messages."""
    return len(value.split()) > 1 if isinstance(value, str) else is_messages(value)
