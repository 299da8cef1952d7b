"""The table of shapes, how the shape of a file is recognised, and how a row of it becomes an `Example`.

The shape is recognised from the first row that can be read and holds for the whole file. One more shape is
one more entry in the module of its family.
"""

import json
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from sparserm_cli.data.example import UNLABELLED, Example, RowError
from sparserm_cli.data.shapes.advice import advice
from sparserm_cli.data.shapes.preferences import PREFERENCES, explain_sides
from sparserm_cli.data.shapes.prompts import prompt_name, tools
from sparserm_cli.data.shapes.ranked import RANKED
from sparserm_cli.data.shapes.shape import Parts, Row, Shape, stands
from sparserm_cli.data.shapes.single import RATED
from sparserm_cli.data.shapes.single import UNLABELLED as PLAIN
from sparserm_cli.data.shapes.two_answers import TWO_ANSWERS
from sparserm_cli.data.sources.strict_json import shown

Purpose = Literal["pairs", "responses", "any"]

SHAPES: dict[str, Shape] = {
    shape.name: shape for shape in (*PREFERENCES, *TWO_ANSWERS, *RANKED, *RATED, *PLAIN)
}
NAMES = frozenset().union(*(shape.names for shape in SHAPES.values()))
"""All names that `--column` can map."""

_SUBSET_COLUMNS = ("subset", "domain", "category", "Category")


class Recognised(NamedTuple):
    """The shape of a file together with the columns that hold its parts."""

    shape: Shape
    names: Mapping[str, str]
    """The column or path of each name."""
    columns: tuple[str, ...]
    """The columns of the row by which the shape was recognised."""
    others: tuple[str, ...] = ()
    """Other columns that could decide which response is better."""

    @property
    def name(self) -> str:
        """The name of the shape in the output."""
        return self.shape.name

    @property
    def labelled(self) -> bool:
        """Whether a row says which responses are better."""
        return self.shape.labelled


def recognise(row: Mapping[str, Any], columns: Mapping[str, str] | None = None) -> Recognised:
    """Return the shape of a row, recognised by its columns and their content.

    Args:
        row: the first row of the file that can be read.
        columns: the column or path of each name that the user maps; it takes precedence over the table.

    Raises:
        RowError: no shape has these columns.

    """
    theirs = dict(columns or {})
    implicit = theirs.get("prompt") in ("chosen", theirs.get("chosen", "chosen"))
    if implicit:
        theirs["prompt_in"] = theirs.pop("prompt")
    for shape in SHAPES.values():
        matched = _matched(shape, row, theirs, implicit=implicit)
        if matched is not None:
            return matched
    if {"chosen", "rejected"} & row.keys():
        explain_sides(Row(row, theirs))
    listed = ", ".join(shown(key, 30) for key in list(row)[:8]) or "no columns"
    raise RowError(f"columns of a known shape; {advice(row, theirs)}", listed)


def example_of(
    view: Row, recognised: Recognised, purpose: Purpose, number: int, offset: int | None
) -> Example:
    """Return one row as an example.

    Args:
        view: the view of the row; afterwards it lists the columns that were read.
        recognised: the shape of its file.
        purpose: "responses" leaves out which response is better.
        number: the row's number in the file, from 1.
        offset: byte offset of the row in the file; None if it is not known.

    Raises:
        RowError: a field is missing, null, empty or of the wrong type.

    """
    parts = recognised.shape.read(view)
    offered = tools(view)
    subset = _subset(view)
    given = view.get("id")
    extra = {
        key: value
        for key, value in view.values.items()
        if key not in view.used and key not in recognised.names and key != "id" and _plain(value)
    }
    labels = _labels(parts) if recognised.labelled and purpose != "responses" else {}
    unlabelled = (UNLABELLED,) * len(parts.responses)
    turns = tuple(response.extras for response in parts.responses)
    example = Example(
        number,
        _id_of(given),
        parts.prompt,
        tuple(response.content for response in parts.responses),
        unlabelled,
        subset,
        extra,
        offset,
        turns=turns if any(turns) else (),
        tools=offered,
    )
    return example._replace(**labels)


def _labels(parts: Parts) -> dict[str, Any]:
    """Return the fields of an example that say which responses are better."""
    if parts.rating is not None:
        return {"rating": parts.rating, "better": ()}
    better = () if parts.undecided else parts.better
    labels = {"better": better, "margins": parts.margins, "undecided": parts.undecided}
    return labels if not parts.sides else labels | {"sides": parts.sides}


def _matched(
    shape: Shape, values: Mapping[str, Any], theirs: Mapping[str, str], *, implicit: bool
) -> Recognised | None:
    """Return the shape with its columns if the row has them, otherwise None."""
    if theirs.keys() - shape.names - {"prompt_in"}:
        return None
    names = {**shape.columns, **theirs}
    row = Row(values, {**shape.optional, **names})
    if not all(stands(values, path) for path in names.values()):
        return None
    if "prompt" not in names and not implicit and "messages" not in names:
        known = prompt_name(row)
        if known in names.values():
            known = None
        if known is not None:
            names["prompt"] = known
            if known == "instruction" and "input" in values:
                names["input"] = "input"
    row = Row(values, {**shape.optional, **names})
    if not shape.fits(row):
        return None
    others = tuple(
        label for label in shape.labels if label != names[shape.decides] and row.at(label) is not None
    )
    return Recognised(shape, row.names, tuple(values), others)


def _subset(row: Row) -> str | None:
    """Return the part of a benchmark to which a row belongs."""
    names = ([row.path("subset")] if "subset" in row.names else []) + list(_SUBSET_COLUMNS)
    return next((row.values[key] for key in names if isinstance(row.values.get(key), str)), None)


def _id_of(value: Any) -> str | None:
    """Return a row's own id: any JSON scalar. An object or a list is not an id."""
    if value is None or isinstance(value, dict | list):
        return None
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _plain(value: Any) -> bool:
    """Whether a column can be written as JSON as it is; pictures, dates and NaN cannot."""
    if isinstance(value, float):
        return value - value == 0.0
    if isinstance(value, dict):
        return all(_plain(item) for item in value.values())
    if isinstance(value, list):
        return all(_plain(item) for item in value)
    return value is None or isinstance(value, str | int)
