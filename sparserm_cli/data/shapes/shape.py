"""What an entry of the table of shapes says, the row as it sees it, and what it makes of the row."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sparserm_cli.data.example import Message, RowError
from sparserm_cli.data.shapes.values import from_json
from sparserm_cli.data.sources.strict_json import shown

EVERYWHERE = ("prompt", "system", "tools", "id", "subset", "margin", "score_chosen", "score_rejected")
"""Names that mean the same in every shape, so that `--column` can map them whatever the shape is."""


class Parts(NamedTuple):
    """What a shape finds in a row."""

    prompt: tuple[Message, ...] | str
    responses: tuple[Message, ...]
    """The responses, each an assistant's turn."""
    sides: tuple[int, ...] = ()
    """Chosen or rejected, as long as `responses`; empty where the row does not say."""
    better: tuple[tuple[int, int], ...] | None = None
    """Pairs of a better and a worse response, by index, where they are not all chosen over all rejected."""
    margins: tuple[float | None, ...] = ()
    """How much better, a pair each; empty where the row does not say."""
    undecided: str = ""
    """Why the row prefers none."""
    rating: float | None = None
    """The rating of the one response of the row."""


@dataclass(frozen=True)
class Shape:
    """One way to write a row: an entry of the table."""

    name: str
    """What the output calls it; for a public data set its usual name."""
    read: Callable[["Row"], Parts]
    """Takes a row apart; what rows of one family share."""
    columns: Mapping[str, str]
    """Our name to the column that holds it, a path like `question.full_text` or `answers[].rank`; all must be
    there for the shape to be recognised, but for `prompt` equal to "", which is found by its usual names."""
    labelled: bool = True
    """Whether a row says which responses are better."""
    labels: tuple[str, ...] = ()
    """Columns of which one decides what is better: the first unless `--column` names another."""
    decides: str = ""
    """Our name of the column that `labels` are for."""
    optional: Mapping[str, str] = field(default_factory=dict)
    """Columns that are read where they are there, likewise."""
    fits: Callable[["Row"], bool] = lambda _: True
    """A further look at the first row, where its columns do not tell shapes apart."""
    grouped: bool = False
    """Whether rows hold one response each, so that rows of one prompt, next to each other, make its pairs."""

    @property
    def names(self) -> set[str]:
        """Our names that `--column` can map in this shape."""
        return {*self.columns, *self.optional, *EVERYWHERE}


class Row:
    """A row under our names for its columns.

    Args:
        values: the row.
        names: our name to the column or path that holds it.

    """

    def __init__(self, values: Mapping[str, Any], names: Mapping[str, str]) -> None:
        self.values, self.names = values, names
        self.used: set[str] = set()
        """Columns that were looked at."""
        self.found: dict[str, str] = {}
        """Our names that had a value, each with its column or path."""
        self.parsed = False
        """Whether a cell was JSON text of a list."""

    def path(self, name: str) -> str:
        """Return the column or path that holds what we call `name`."""
        return self.names.get(name, name)

    def has(self, name: str) -> bool:
        """Whether the column is there and not null."""
        try:
            return self.get(name) is not None
        except RowError:
            return False

    def get(self, name: str) -> Any:
        """Return what the column holds; None if it is not there. JSON text of messages becomes these."""
        value = self.at(self.path(name))
        if value is not None:
            self.found[name] = self.path(name)
        return value

    def at(self, path: str) -> Any:
        """Return what stands at a path; None if nothing does."""
        self.used.add(_top(self.values, path))
        value = _followed(self.values, path)
        if isinstance(value, str):
            found = from_json(value, path)
            self.parsed = self.parsed or found is not value
            return found
        return value

    def need(self, name: str) -> Any:
        """Return what the column holds.

        Raises:
            RowError: it is not there, or null.

        """
        value, path = self.get(name), self.path(name)
        if value is not None:
            return value
        if _top(self.values, path) not in self.values:
            columns = ", ".join(shown(key, 30) for key in list(self.values)[:8]) or "no columns"
            raise RowError("the column", f"only {columns}", field=path)
        raise RowError("a value", "null", field=path)

    def ignored(self) -> list[str]:
        """Return the columns that were not looked at."""
        return [key for key in self.values if key not in self.used]


def sided(
    prompt: tuple[Message, ...] | str,
    chosen: Iterable[Message],
    rejected: Iterable[Message],
    margin: float | None = None,
) -> Parts:
    """Return a row of which every chosen response is better than every rejected one."""
    good, bad = tuple(chosen), tuple(rejected)
    margins = () if margin is None else (margin,) * (len(good) * len(bad))
    return Parts(prompt, (*good, *bad), (1,) * len(good) + (-1,) * len(bad), margins=margins)


def assistant(text: str) -> Message:
    """Return words as an assistant's turn."""
    return Message("assistant", text)


def stands(row: Mapping[str, Any], path: str) -> bool:
    """Whether a row has the column at the head of a path, and what the path leads to if there is more."""
    return path in row or ("." in path and _top(row, path) in row and _followed(row, path) is not None)


def _top(values: Mapping[str, Any], path: str) -> str:
    """Return the column that a path begins with."""
    return path if path in values else path.split(".")[0].split("[")[0]


def _followed(values: Mapping[str, Any], path: str) -> Any:
    """Return what a path leads to: `a.b` a key, `a[].b` that of every item, `a[0].b` that of one item."""
    if path in values:
        return values[path]
    head, _, rest = path.partition(".")
    name, _, place = head.removesuffix("]").partition("[")
    inner = values.get(name)
    if head == name:
        return _followed(inner, rest) if rest and isinstance(inner, Mapping) else None
    items = inner if isinstance(inner, list) else []
    if place.isdecimal():
        items = items[int(place) : int(place) + 1]
    elif not isinstance(inner, list):
        return None
    found = [_followed(item, rest) if isinstance(item, Mapping) else None for item in items]
    return (found[0] if found else None) if place.isdecimal() else found
