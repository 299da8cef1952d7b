"""The types of the table of shapes: an entry, the view of a row, and the parts that are read from a row."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sparserm_cli.data.example import Message, RowError
from sparserm_cli.data.shapes.values import from_json
from sparserm_cli.data.sources.strict_json import shown

EVERYWHERE = ("prompt", "system", "tools", "id", "subset", "margin", "score_chosen", "score_rejected")
"""Names with the same meaning in every shape, so that `--column` can always map them."""


class Parts(NamedTuple):
    """The parts that a shape reads from a row."""

    prompt: tuple[Message, ...] | str
    responses: tuple[Message, ...]
    """The responses, each as an assistant's turn."""
    sides: tuple[int, ...] = ()
    """Chosen (+1) or rejected (-1), one value per response; empty if the row does not say."""
    better: tuple[tuple[int, int], ...] | None = None
    """Pairs of a better and a worse response, by index; None for every chosen over every rejected one."""
    margins: tuple[float | None, ...] = ()
    """How much better the chosen response is, one value per pair; empty if the row does not say."""
    undecided: str = ""
    """The reason why the row prefers no response; empty if it prefers one."""
    rating: float | None = None
    """The rating of the row's only response."""


@dataclass(frozen=True)
class Shape:
    """One form of a row: an entry of the table of shapes."""

    name: str
    """The name in the output; for a public data set its usual name."""
    read: Callable[["Row"], Parts]
    """The function that splits a row into its parts; the shapes of one family share it."""
    columns: Mapping[str, str]
    """The column of each name, or a path like `question.full_text` or `answers[].rank`; all must be
    there for the shape to be recognised, but for `prompt` equal to "", which is found by its usual names."""
    labelled: bool = True
    """Whether a row says which responses are better."""
    labels: tuple[str, ...] = ()
    """Columns of which one decides which response is better: the first, unless `--column` names another."""
    decides: str = ""
    """The mapped name of the column to which `labels` apply."""
    optional: Mapping[str, str] = field(default_factory=dict)
    """Optional columns in the same form; they are read where they exist."""
    fits: Callable[["Row"], bool] = lambda _: True
    """A further check of the first row, where column names do not distinguish shapes."""
    grouped: bool = False
    """Whether each row holds one response, so that adjacent rows of one prompt form its pairs."""

    @property
    def names(self) -> set[str]:
        """The names that `--column` can map in this shape."""
        return {*self.columns, *self.optional, *EVERYWHERE}


class Row:
    """A row whose columns are reached by the names used here.

    Args:
        values: the row as it stands in the file.
        names: the column or path of each name.

    """

    def __init__(self, values: Mapping[str, Any], names: Mapping[str, str]) -> None:
        self.values, self.names = values, names
        self.used: set[str] = set()
        """The columns that were read."""
        self.found: dict[str, str] = {}
        """The names that had a value, each with its column or path."""
        self.parsed = False
        """Whether a cell held the JSON text of a list."""

    def path(self, name: str) -> str:
        """Return the column or path that holds `name`."""
        return self.names.get(name, name)

    def has(self, name: str) -> bool:
        """Whether the column exists and is not null."""
        try:
            return self.get(name) is not None
        except RowError:
            return False

    def get(self, name: str) -> Any:
        """Return the value of the column, None if it does not exist; JSON text of messages is parsed."""
        value = self.at(self.path(name))
        if value is not None:
            self.found[name] = self.path(name)
        return value

    def at(self, path: str) -> Any:
        """Return the value at a path; None if there is none."""
        self.used.add(_top(self.values, path))
        value = _followed(self.values, path)
        if isinstance(value, str):
            parsed = from_json(value, path)
            self.parsed = self.parsed or parsed is not value
            return parsed
        return value

    def need(self, name: str) -> Any:
        """Return the value of the column.

        Raises:
            RowError: the column does not exist or is null.

        """
        value, path = self.get(name), self.path(name)
        if value is not None:
            return value
        if _top(self.values, path) not in self.values:
            columns = ", ".join(shown(key, 30) for key in list(self.values)[:8]) or "no columns"
            raise RowError("the column", f"only {columns}", field=path)
        raise RowError("a value", "null", field=path)

    def ignored(self) -> list[str]:
        """Return the columns that were not read."""
        return [key for key in self.values if key not in self.used]


def sided(
    prompt: tuple[Message, ...] | str,
    chosen: Iterable[Message],
    rejected: Iterable[Message],
    margin: float | None = None,
) -> Parts:
    """Return the parts of a row in which every chosen response is better than every rejected one."""
    good, bad = tuple(chosen), tuple(rejected)
    margins = () if margin is None else (margin,) * (len(good) * len(bad))
    return Parts(prompt, (*good, *bad), (1,) * len(good) + (-1,) * len(bad), margins=margins)


def assistant(text: str) -> Message:
    """Return words as an assistant's turn."""
    return Message("assistant", text)


def stands(row: Mapping[str, Any], path: str) -> bool:
    """Whether a row has the first column of a path and, for a longer path, a value at its end."""
    return path in row or ("." in path and _top(row, path) in row and _followed(row, path) is not None)


def _top(values: Mapping[str, Any], path: str) -> str:
    """Return the column that a path begins with."""
    return path if path in values else path.split(".")[0].split("[")[0]


def _followed(values: Mapping[str, Any], path: str) -> Any:
    """Return the value at a path: `a.b` is a key, `a[].b` that of every item, `a[0].b` that of one item."""
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
    results = [_followed(item, rest) if isinstance(item, Mapping) else None for item in items]
    return (results[0] if results else None) if place.isdecimal() else results
