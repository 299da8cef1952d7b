"""Records that the reader yields: accepted rows, and descriptions of refused rows."""

import json
from collections.abc import Mapping
from itertools import product
from typing import Any, NamedTuple


class Rendered(str):
    """A prompt to which the chat template has already been applied; it is used unchanged."""

    __slots__ = ()


class RowError(Exception):
    """A row that cannot be used.

    Args:
        expected: the content that a usable row would have.
        found: the content that the row has instead.
        field: the column at fault; empty if no single column is at fault.
        offset: byte offset of the fault, where it differs from that of the row.

    """

    def __init__(self, expected: str, found: str, *, field: str = "", offset: int | None = None) -> None:
        self.expected, self.found, self.field, self.offset = expected, found, field, offset
        super().__init__(self.reason)

    @property
    def reason(self) -> str:
        """The fault in one phrase."""
        return f"expected {self.expected}, found {self.found}"


CHOSEN, REJECTED, UNLABELLED = 1, -1, 0


class Message(NamedTuple):
    """One turn of a conversation."""

    role: str
    content: str
    extras: str = ""
    """Other content that a chat template may render (tool calls, reasoning), as the JSON text of an object;
    empty if there is none."""

    def plain(self) -> dict[str, Any]:
        """Return the turn as a mapping, the form that rows and chat templates use."""
        more = json.loads(self.extras) if self.extras else {}
        return {"role": self.role, "content": self.content, **more}


def plain_prompt(prompt: tuple[Message, ...] | str) -> list[dict[str, Any]] | str:
    """Return a prompt in the form that rows use: text, or a list of `{"role", "content"}`."""
    return prompt if isinstance(prompt, str) else [turn.plain() for turn in prompt]


class Example(NamedTuple):
    """One accepted row: a prompt with its responses."""

    row: int
    """The line number in a file of lines, otherwise the record number, counted from 1."""
    id: str | None
    """The row's own id, if it has one."""
    prompt: tuple[Message, ...] | str
    """The conversation before the response; a string is one user turn for chat templates."""
    responses: tuple[str, ...]
    """The responses: chosen before rejected ones where the row names both, otherwise in the row's order."""
    sides: tuple[int, ...]
    """+1 for chosen, -1 for rejected, 0 for unlabelled; one value per response."""
    subset: str | None
    """The RM-Bench domain, the RewardBench subset, or the value of a `subset` or `category` column."""
    extra: Mapping[str, Any]
    """Other columns that hold plain JSON values."""
    offset: int | None = None
    """Byte offset of the row in its file, where the file has lines."""
    better: tuple[tuple[int, int], ...] | None = None
    """Pairs of a better and a worse response, by index; None is every chosen over every rejected one."""
    margins: tuple[float | None, ...] = ()
    """How much better the chosen response of each pair is, in the unit of the data; empty if unknown."""
    turns: tuple[str, ...] = ()
    """The content of each response besides words, as in `Message.extras`; empty if no response has any."""
    tools: str = ""
    """The tools that the prompt offers, as JSON text; empty if it offers none."""
    undecided: str = ""
    """The reason why a row of a labelled shape has no pair (`tie`); empty if it has pairs."""
    rating: float | None = None
    """The rating of the row's only response, where each row holds one response."""
    rows: int = 1
    """The number of source rows from which the example was made."""

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Pairs of a better and a worse response, by index."""
        if self.better is not None:
            return self.better
        good = [place for place, side in enumerate(self.sides) if side == CHOSEN]
        bad = [place for place, side in enumerate(self.sides) if side == REJECTED]
        return tuple(product(good, bad))

    def message(self, response: int) -> Message:
        """Return a response as an assistant's turn."""
        return Message("assistant", self.responses[response], self.turns[response] if self.turns else "")


class RawRow(NamedTuple):
    """One row as it stands in the file, or the reason why it cannot be read."""

    number: int
    """The line number in a file of lines, otherwise the record number, counted from 1."""
    offset: int | None
    """Byte offset of the row in its file; None for a parquet file or a data set of the hub."""
    value: Any
    """The row, normally an object; None if `error` is set."""
    error: RowError | None
    """The fault that was met while the row was read."""
    data: bytes
    """The first bytes of the row, for an excerpt."""


class Reject(NamedTuple):
    """One refused row."""

    row: int
    offset: int | None
    field: str
    """The column at fault, or an empty string."""
    reason: str
    excerpt: str
    """At most 200 characters of the row."""


class InputFile(NamedTuple):
    """An input that was read: a file, or a data set of the hub."""

    path: str
    bytes: int
    sha256: str
    """Digest of the file's bytes or, for a data set of the hub, of its rows as canonical JSON lines."""
