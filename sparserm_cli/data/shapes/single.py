"""Rows with one rated or unrated answer, with several unrated answers, or with a whole conversation."""

from collections.abc import Callable
from typing import Any

from sparserm_cli.data import fields
from sparserm_cli.data.example import RowError
from sparserm_cli.data.shapes.margins import number
from sparserm_cli.data.shapes.preferences import after, said, texts, turns_of
from sparserm_cli.data.shapes.prompts import prompt, with_system
from sparserm_cli.data.shapes.shape import Parts, Row, Shape
from sparserm_cli.data.shapes.values import is_messages, reply


def _single(name: str) -> Callable[[Row], Parts]:
    """Return the function that reads a row whose only answer is in this column."""

    def read(row: Row) -> Parts:
        before, value = prompt(row), row.need(name)
        if isinstance(value, list) or is_messages(value):
            before, response = after(row, name, before)
            return Parts(with_system(row, before), (response,))
        fields.nonempty(value, row.path(name))
        return Parts(before, (said(row, name, before),))

    return read


def _rated(name: str) -> Callable[[Row], Parts]:
    """Return the function that reads a row with one rated answer."""
    single = _single(name)

    def read(row: Row) -> Parts:
        rating: Any = row.need("rating")
        value = float(rating) if isinstance(rating, bool) else number(rating, row.path("rating"))
        return single(row)._replace(rating=value)

    return read


def _several(row: Row) -> Parts:
    return Parts(prompt(row), texts(row, "responses"))


def _conversation(row: Row) -> Parts:
    before, response = reply(turns_of(row, "messages"), row.path("messages"))
    if not before:
        raise RowError("a turn before the response", "none", field=row.path("messages"))
    return Parts(with_system(row, before), (response,))


def _unlabelled(name: str, column: str, ours: str = "response") -> Shape:
    return Shape(name, _single(ours), {ours: column}, labelled=False, fits=_has_question)


def _has_question(row: Row) -> bool:
    return "prompt" in row.names


RATED = (
    Shape(
        "helpsteer",
        _rated("response"),
        {"prompt": "prompt", "response": "response", "rating": "helpfulness"},
        labels=("helpfulness", "correctness", "coherence", "complexity", "verbosity"),
        decides="rating",
        grouped=True,
    ),
    Shape(
        "rated responses",
        _rated("response"),
        {"response": "response", "rating": "rating"},
        grouped=True,
        fits=_has_question,
    ),
    Shape(
        "kto",
        _rated("completion"),
        {"completion": "completion", "rating": "label"},
        grouped=True,
        fits=_has_question,
    ),
)
UNLABELLED = (
    Shape("prompt and responses", _several, {"responses": "responses"}, labelled=False, fits=_has_question),
    _unlabelled("prompt and response", "response"),
    _unlabelled("prompt and completion", "completion", "completion"),
    _unlabelled("prompt and answer", "answer"),
    _unlabelled("prompt and output", "output"),
    Shape("messages", _conversation, {"messages": "messages"}, labelled=False),
    Shape("conversations", _conversation, {"messages": "conversations"}, labelled=False),
    Shape("conversation", _conversation, {"messages": "conversation"}, labelled=False),
)
