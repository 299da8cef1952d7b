"""Read how much better a chosen response is than a rejected one, where a row gives numbers."""

import math
from typing import Any

from sparserm_cli.data.example import RowError
from sparserm_cli.data.shapes.shape import Row
from sparserm_cli.data.sources.strict_json import kind_of

SCORES = (
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("chosen_rating", "rejected_rating"),
    ("chosen_reward", "rejected_reward"),
    ("chosen-rating", "rejected-rating"),
)
"""Names that public data sets give to the columns with the ratings of both sides."""


def margin(row: Row) -> float | None:
    """Return the column `margin`, else the score of chosen less that of rejected, else None."""
    if row.has("margin"):
        return number(row.get("margin"), row.path("margin"))
    for chosen, rejected in SCORES:
        if row.has(chosen) and row.has(rejected):
            good, bad = (number(row.get(name), row.path(name)) for name in (chosen, rejected))
            return good - bad
    return None


def number(value: Any, field: str) -> float:
    """Return a finite number, which the row may give as a number or as text.

    Raises:
        RowError: it is neither.

    """
    try:
        value_read = float(value) if isinstance(value, int | float | str) else math.nan
    except ValueError:
        value_read = math.nan
    if not math.isfinite(value_read):
        raise RowError("a number", kind_of(value), field=field)
    return value_read
