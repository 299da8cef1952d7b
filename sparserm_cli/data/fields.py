"""Checks that a field of a row is present, not null, of the right type and not empty."""

from collections.abc import Mapping
from typing import Any

from sparserm_cli.data.example import Message, RowError
from sparserm_cli.data.messages import normalise_messages, response_of
from sparserm_cli.data.sources.strict_json import kind_of, shown


def present(row: Mapping[str, Any], field: str) -> Any:
    """Return a field that must be there and not null."""
    if field not in row:
        columns = ", ".join(shown(key, 30) for key in list(row)[:8]) or "no columns"
        raise RowError("the column", f"only {columns}", field=field)
    if row[field] is None:
        raise RowError("a value", "null", field=field)
    return row[field]


def text(row: Mapping[str, Any], field: str) -> str:
    """Return a field that must be a string with more than white space."""
    return nonempty(present(row, field), field)


def nonempty(value: Any, field: str) -> str:
    """Return a value that must be a string with more than white space."""
    if not isinstance(value, str):
        raise RowError("a string", kind_of(value), field=field)
    if not value.strip():
        raise RowError("text", "an empty string" if not value else "only white space", field=field)
    return value


def texts(row: Mapping[str, Any], field: str) -> tuple[str, ...]:
    """Return a field that must be a list of at least one string, none of them empty."""
    value = present(row, field)
    if not isinstance(value, list):
        raise RowError("a list of strings", kind_of(value), field=field)
    if not value:
        raise RowError("at least one string", "an empty list", field=field)
    return tuple(nonempty(item, f"{field}[{i}]") for i, item in enumerate(value))


def messages(row: Mapping[str, Any], field: str) -> tuple[Message, ...]:
    """Return a field that must be a list of at least one `{"role", "content"}`.

    Empty contents are kept: only a response must not be empty, and that is checked where it is known.
    """
    return normalise_messages(present(row, field), field)


def prompt(row: Mapping[str, Any], field: str = "prompt") -> tuple[Message, ...] | str:
    """Return a prompt: a string with more than white space, or a list of messages."""
    value = present(row, field)
    return messages(row, field) if isinstance(value, list) else nonempty(value, field)


def answer(turns: tuple[Message, ...], field: str) -> tuple[tuple[Message, ...], str]:
    """Split a conversation into what comes before its last turn and that turn, an assistant's."""
    before, response = response_of(turns, field)
    return before, nonempty(response, f"{field}[{len(before)}].content")
