"""What the reader yields: one accepted row, and what it says of a refused one."""

import json
from collections.abc import Mapping
from itertools import product
from typing import Any, NamedTuple


class RowError(Exception):
    """A row that cannot be used.

    Args:
        expected: what would have been right.
        found: what was there instead.
        field: the column concerned, if one is.
        offset: byte offset of the fault, if it is not that of the row.

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
    """What else a chat template may render (tool calls, reasoning), as the JSON text of an object; empty for
    nothing."""

    def plain(self) -> dict[str, Any]:
        """Return the turn as rows and chat templates have it."""
        more = json.loads(self.extras) if self.extras else {}
        return {"role": self.role, "content": self.content, **more}


def plain_prompt(prompt: tuple[Message, ...] | str) -> list[dict[str, Any]] | str:
    """Return a prompt as rows have it: text, or a list of `{"role", "content"}`."""
    return prompt if isinstance(prompt, str) else [turn.plain() for turn in prompt]


class Example(NamedTuple):
    """One accepted row: a prompt with its responses."""

    row: int
    """Line number in a file of lines, else record number; from 1."""
    id: str | None
    """The row's own id, if it has one."""
    prompt: tuple[Message, ...] | str
    """The conversation before the response; a string is one user turn for chat templates."""
    responses: tuple[str, ...]
    """The responses: of `chosen` and `rejected` the chosen ones first, else in the order of the row."""
    sides: tuple[int, ...]
    """+1 chosen, -1 rejected, 0 unlabelled; as long as `responses`."""
    subset: str | None
    """RM-Bench domain, RewardBench subset, or a `subset` or `category` column."""
    extra: Mapping[str, Any]
    """Other columns that hold plain JSON values."""
    offset: int | None = None
    """Byte offset of the row in its file, where the file has lines."""
    better: tuple[tuple[int, int], ...] | None = None
    """Pairs of a better and a worse response, by index; None is every chosen over every rejected one."""
    margins: tuple[float | None, ...] = ()
    """How much better, in the unit of the data, for each of `pairs`; empty where the data do not say."""
    turns: tuple[str, ...] = ()
    """What else than words each response holds, as `Message.extras`; empty where no response has any."""
    tools: str = ""
    """JSON text of the tools that the prompt offers; empty for none."""
    undecided: str = ""
    """Why a row of a labelled shape has no pair (`tie`); empty where it has some."""
    rating: float | None = None
    """The rating of the one response of the row, where rows have one each."""
    rows: int = 1
    """How many rows of the source the example was made from."""

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Pairs of a better and a worse response, by index."""
        if self.better is not None:
            return self.better
        good = [place for place, side in enumerate(self.sides) if side == CHOSEN]
        bad = [place for place, side in enumerate(self.sides) if side == REJECTED]
        return tuple(product(good, bad))

    def message(self, response: int) -> Message:
        """Return a response as the turn that it is."""
        return Message("assistant", self.responses[response], self.turns[response] if self.turns else "")


class RawRow(NamedTuple):
    """One row as it stands in the file, or the reason why it cannot be read."""

    number: int
    """Line number in a file of lines, else record number; from 1."""
    offset: int | None
    """Byte offset of the row; None in a parquet file or a data set of the hub."""
    value: Any
    """The row, normally an object; None if `error` is set."""
    error: RowError | None
    """The fault that reading the row met."""
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
    """What was read: a file, or a data set of the hub."""

    path: str
    bytes: int
    sha256: str
    """Digest of the file's bytes; for a data set of the hub, of its rows as canonical JSON lines."""
