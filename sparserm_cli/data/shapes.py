"""The shapes a row may have, and how each becomes an `Example`.

The shape is recognised from the first row that can be read and holds for the whole file.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from sparserm_cli.data import fields
from sparserm_cli.data.example import CHOSEN, REJECTED, UNLABELLED, Example, Message, RowError
from sparserm_cli.data.sources.strict_json import kind_of, shown

Purpose = Literal["pairs", "responses", "any"]
_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}
_SUBSET_COLUMNS = ("subset", "domain", "category", "Category")


class Parts(NamedTuple):
    """What a shape finds in a row."""

    prompt: tuple[Message, ...] | str
    chosen: tuple[str, ...]
    rejected: tuple[str, ...] = ()


class Shape(NamedTuple):
    """One way to write a row."""

    name: str
    labelled: bool
    """Whether a row says which responses are better."""
    columns: frozenset[str]
    """Columns that become prompt and responses; the others are kept as `extra`."""
    parts: Callable[[Mapping[str, Any]], Parts]


def recognise(row: Mapping[str, Any]) -> Shape:
    """Return the shape of a row, judged by its columns and the kind of its `chosen`.

    Raises:
        RowError: no shape has these columns.

    """
    if {"chosen", "rejected"} & row.keys():
        return _preference_shape(row)
    for name, shape in _BY_COLUMNS.items():
        if shape.columns <= row.keys():
            return SHAPES[name]
    columns = ", ".join(shown(key, 30) for key in list(row)[:8]) or "no columns"
    raise RowError("columns of a known shape (chosen and rejected, or prompt and response)", columns)


def example_of(
    row: Mapping[str, Any], shape: Shape, purpose: Purpose, number: int, offset: int | None
) -> Example:
    """Return one row as an example.

    Raises:
        RowError: a field is missing, null, empty or of the wrong type.

    """
    parts = shape.parts(row)
    labelled = shape.labelled and purpose != "responses"
    sides = (CHOSEN,) * len(parts.chosen) + (REJECTED,) * len(parts.rejected)
    if not labelled:
        sides = (UNLABELLED,) * len(sides)
    subset = next((row[key] for key in _SUBSET_COLUMNS if isinstance(row.get(key), str)), None)
    extra = {
        key: value for key, value in row.items() if key not in shape.columns and key != "id" and _plain(value)
    }
    return Example(
        number, _id_of(row), parts.prompt, parts.chosen + parts.rejected, sides, subset, extra, offset
    )


def transcript(text: str, field: str) -> tuple[Message, ...]:
    r"""Return the turns of a `\n\nHuman: ...\n\nAssistant: ...` transcript, stripped."""
    pieces = _TURN.split(text)
    if pieces[0].strip() or len(pieces) < 3:
        raise RowError(r"a transcript that begins with \n\nHuman:", shown(text, 30), field=field)
    return tuple(
        Message(_ROLES[role], said.strip()) for role, said in zip(pieces[1::2], pieces[2::2], strict=True)
    )


def _preference_shape(row: Mapping[str, Any]) -> Shape:
    """Tell the preference shapes apart by what `chosen` holds and whether a prompt is given."""
    chosen = fields.present(row, "chosen")
    fields.present(row, "rejected")
    explicit = "prompt" in row
    if isinstance(chosen, list):
        if any(isinstance(item, dict) for item in chosen):
            return SHAPES[
                "conversational preference" if explicit else "conversational preference, implicit prompt"
            ]
        if not explicit:
            fields.present(row, "prompt")
        if {"num_correct", "total_completions"} <= row.keys():
            return SHAPES["reward-bench-2"]
        return SHAPES["rm-bench" if "domain" in row else "multi-response preference"]
    if not isinstance(chosen, str):
        raise RowError("a string, a list of strings or a list of messages", kind_of(chosen), field="chosen")
    if explicit:
        return SHAPES["preference"]
    return SHAPES["hh-rlhf" if chosen.startswith("\n\nHuman:") else "preference, implicit prompt"]


def _standard(row: Mapping[str, Any]) -> Parts:
    return Parts(fields.prompt(row), (fields.text(row, "chosen"),), (fields.text(row, "rejected"),))


def _standard_implicit(row: Mapping[str, Any]) -> Parts:
    chosen, rejected = fields.text(row, "chosen"), fields.text(row, "rejected")
    cut = shared_words(chosen, rejected)
    if not chosen[:cut].strip():
        raise RowError(
            "chosen and rejected that begin with the same prompt", "no shared words", field="prompt"
        )
    return Parts(
        chosen[:cut],
        (fields.nonempty(chosen[cut:], "chosen"),),
        (fields.nonempty(rejected[cut:], "rejected"),),
    )


def shared_words(first: str, second: str) -> int:
    """Return the length of the leading part two texts share, cut back to the end of a word.

    The white space after it stays with what follows, as TRL has it. Two equal texts share all but their last
    word.
    """
    size = min(len(first), len(second))
    cut = next((i for i in range(size) if first[i] != second[i]), size)
    if cut < size and first[cut].isspace() and second[cut].isspace():
        return cut
    return len(re.sub(r"\s+\S*$|^\S*$", "", first[:cut]))


def _multi(row: Mapping[str, Any]) -> Parts:
    return Parts(fields.prompt(row), fields.texts(row, "chosen"), fields.texts(row, "rejected"))


def _conversational(row: Mapping[str, Any]) -> Parts:
    """Take one assistant turn a side after the prompt, or (UltraFeedback) the whole conversation a side."""
    prompt = fields.prompt(row)
    sides = [_reply(fields.messages(row, field), prompt, field) for field in ("chosen", "rejected")]
    if sides[0][0] != sides[1][0]:
        raise RowError("the history of chosen", "another history", field="rejected")
    return Parts(sides[0][0], (sides[0][1],), (sides[1][1],))


def _reply(
    turns: tuple[Message, ...], prompt: tuple[Message, ...] | str, field: str
) -> tuple[tuple[Message, ...] | str, str]:
    before, response = fields.answer(turns, field)
    if not before:
        return prompt, response
    asked = before[-1].content if isinstance(prompt, str) else before
    if asked != prompt:
        raise RowError(
            "one assistant turn after the prompt", f"{len(turns)} turns of another history", field=field
        )
    return before, response


def _conversational_implicit(row: Mapping[str, Any]) -> Parts:
    return _same_history(fields.messages(row, "chosen"), fields.messages(row, "rejected"))


def _hh(row: Mapping[str, Any]) -> Parts:
    chosen, rejected = fields.text(row, "chosen"), fields.text(row, "rejected")
    return _same_history(transcript(chosen, "chosen"), transcript(rejected, "rejected"))


def _same_history(chosen: tuple[Message, ...], rejected: tuple[Message, ...]) -> Parts:
    """Split two conversations that must be equal up to their last turn."""
    prompt, good = fields.answer(chosen, "chosen")
    other, bad = fields.answer(rejected, "rejected")
    if prompt != other:
        size = min(len(prompt), len(other))
        turn = next((i for i in range(size) if prompt[i] != other[i]), size)
        raise RowError("the prompt of chosen", f"another from turn {turn + 1} on", field="rejected")
    if not prompt:
        raise RowError("a turn before the response", "none", field="chosen")
    return Parts(prompt, (good,), (bad,))


def _truthfulqa(row: Mapping[str, Any]) -> Parts:
    sides = []
    for field in ("Correct Answers", "Incorrect Answers"):
        answers = tuple(part.strip() for part in fields.text(row, field).split(";") if part.strip())
        if not answers:
            raise RowError("answers set apart by ;", "none", field=field)
        sides.append(answers)
    return Parts(fields.text(row, "Question"), *sides)


def _single(field: str) -> Callable[[Mapping[str, Any]], Parts]:
    def parts(row: Mapping[str, Any]) -> Parts:
        prompt, value = fields.prompt(row), fields.present(row, field)
        if isinstance(value, list):
            prompt, response = _reply(fields.messages(row, field), prompt, field)
            return Parts(prompt, (response,))
        return Parts(prompt, (fields.nonempty(value, field),))

    return parts


def _several(row: Mapping[str, Any]) -> Parts:
    return Parts(fields.prompt(row), fields.texts(row, "responses"))


def _conversation(row: Mapping[str, Any]) -> Parts:
    prompt, response = fields.answer(fields.messages(row, "messages"), "messages")
    if not prompt:
        raise RowError("a turn before the response", "none", field="messages")
    return Parts(prompt, (response,))


def _id_of(row: Mapping[str, Any]) -> str | None:
    value = row.get("id")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise RowError("a string or an integer", kind_of(value), field="id")
    return str(value)


def _plain(value: Any) -> bool:
    """Whether a column can be written as JSON as it is; pictures, dates and NaN cannot."""
    if isinstance(value, float):
        return value - value == 0.0
    if isinstance(value, dict):
        return all(_plain(item) for item in value.values())
    if isinstance(value, list):
        return all(_plain(item) for item in value)
    return value is None or isinstance(value, str | int)


_PAIR = frozenset({"prompt", "chosen", "rejected"})
_TRUTHFULQA = frozenset({"Question", "Correct Answers", "Incorrect Answers"})
SHAPES: dict[str, Shape] = {
    shape.name: shape
    for shape in (
        Shape("preference", True, _PAIR, _standard),
        Shape("preference, implicit prompt", True, _PAIR, _standard_implicit),
        Shape("conversational preference", True, _PAIR, _conversational),
        Shape("conversational preference, implicit prompt", True, _PAIR, _conversational_implicit),
        Shape("multi-response preference", True, _PAIR, _multi),
        Shape("rm-bench", True, _PAIR, _multi),
        Shape("reward-bench-2", True, _PAIR, _multi),
        Shape("hh-rlhf", True, _PAIR, _hh),
        Shape("truthfulqa", True, _TRUTHFULQA, _truthfulqa),
        Shape("prompt and responses", False, frozenset({"prompt", "responses"}), _several),
        Shape("prompt and response", False, frozenset({"prompt", "response"}), _single("response")),
        Shape("prompt and completion", False, frozenset({"prompt", "completion"}), _single("completion")),
        Shape("messages", False, frozenset({"messages"}), _conversation),
    )
}
_BY_COLUMNS = {name: shape for name, shape in SHAPES.items() if shape.columns != _PAIR}
