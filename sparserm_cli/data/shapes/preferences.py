"""Rows with the columns `chosen` and `rejected`, which hold texts, messages or transcripts."""

from collections.abc import Callable
from typing import Any

from sparserm_cli.data import fields
from sparserm_cli.data.example import Message, RowError
from sparserm_cli.data.shapes.margins import margin
from sparserm_cli.data.shapes.prompts import perhaps_prompts, prompt, shared_words, with_system
from sparserm_cli.data.shapes.shape import Parts, Row, Shape, assistant, sided
from sparserm_cli.data.shapes.values import (
    is_message,
    is_messages,
    is_transcript,
    messages,
    open_transcript,
    reply,
    transcript,
)
from sparserm_cli.data.sources.strict_json import kind_of

Prompt = tuple[Message, ...] | str
SIDES = ("chosen", "rejected")


def text(row: Row, name: str) -> str:
    """Return a column that must hold words."""
    return fields.nonempty(row.need(name), row.path(name))


def texts(row: Row, name: str) -> tuple[Message, ...]:
    """Return a column that must hold several responses in words."""
    return tuple(assistant(text) for text in fields.texts({row.path(name): row.need(name)}, row.path(name)))


def said(row: Row, name: str, before: Prompt) -> Message:
    """Return a response in words; after a transcript, the space that followed `Assistant:` is removed."""
    words = text(row, name)
    after_transcript = isinstance(row.get("prompt"), str) and isinstance(before, tuple)
    return assistant(words.strip() if after_transcript and open_transcript(row.get("prompt")) else words)


def turns_of(row: Row, name: str) -> tuple[Message, ...]:
    """Return a column that must hold messages."""
    return messages(row.need(name), row.path(name))


def after(row: Row, name: str, before: Prompt) -> tuple[Prompt, Message]:
    """Return prompt and response of a column of messages, which may begin with the prompt or leave it out.

    Raises:
        RowError: the messages are a conversation that does not begin with the prompt.

    """
    turns = turns_of(row, name)
    history, response = reply(turns, row.path(name))
    if not history:
        return before, response
    if isinstance(before, str):
        known = any(turn.content.strip() == before.strip() for turn in history)
    else:
        known = history == before
    if not known:
        found = f"{len(turns)} turns of another history"
        raise RowError("one assistant turn after the prompt", found, field=row.path(name))
    return history, response


def same_history(
    row: Row, chosen: tuple[Message, ...], rejected: tuple[Message, ...]
) -> tuple[Prompt, Message, Message]:
    """Split two conversations that must be equal up to their last turn."""
    history, good = reply(chosen, row.path("chosen"))
    other, bad = reply(rejected, row.path("rejected"))
    if history != other:
        turn = first_difference(history, other) + 1
        raise RowError("the prompt of chosen", f"another from turn {turn} on", field=row.path("rejected"))
    if not history:
        raise RowError("a turn before the response", "none", field=row.path("chosen"))
    return with_system(row, history), good, bad


def first_difference(first: tuple[Any, ...], second: tuple[Any, ...]) -> int:
    """Return the first index at which two sequences differ, or the length of the shorter one."""
    size = min(len(first), len(second))
    return next((i for i in range(size) if first[i] != second[i]), size)


def _standard(row: Row) -> Parts:
    before = prompt(row)
    good, bad = (said(row, side, before) for side in SIDES)
    return sided(before, [good], [bad], margin(row))


def _standard_implicit(row: Row) -> Parts:
    chosen, rejected = (text(row, side) for side in SIDES)
    cut = shared_words(chosen, rejected)
    if not chosen[:cut].strip():
        expected = "a prompt, in a column or at the beginning of both responses"
        raise RowError(expected, "no shared words", field="prompt")
    good, bad = (
        assistant(fields.nonempty(words[cut:], row.path(side)))
        for words, side in zip((chosen, rejected), SIDES, strict=True)
    )
    return sided(with_system(row, chosen[:cut]), [good], [bad], margin(row))


def _multi(row: Row) -> Parts:
    return sided(prompt(row), texts(row, "chosen"), texts(row, "rejected"), margin(row))


def _conversational(row: Row) -> Parts:
    """Read one assistant turn per side or, as in UltraFeedback, one whole conversation per side."""
    before = prompt(row)
    (history, good), (other, bad) = (after(row, side, before) for side in SIDES)
    if history != other:
        raise RowError("the history of chosen", "another history", field=row.path("rejected"))
    return sided(with_system(row, history), [good], [bad], margin(row))


def _conversational_implicit(row: Row) -> Parts:
    before, good, bad = same_history(row, *(turns_of(row, side) for side in SIDES))
    return sided(before, [good], [bad], margin(row))


def _hh(row: Row) -> Parts:
    sides = (transcript(text(row, side), row.path(side)) for side in SIDES)
    before, good, bad = same_history(row, *sides)
    return sided(before, [good], [bad], margin(row))


def _holds(kind: Callable[[Any], bool], *, has_prompt: bool) -> Callable[[Row], bool]:
    """Return a check that `chosen` is of this kind and that a column for the question exists or does not."""
    return lambda row: kind(row.get("chosen")) and ("prompt" in row.names) == has_prompt


def _texts(value: Any) -> bool:
    return isinstance(value, list) and not any(is_message(item) for item in value)


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _alone(row: Row) -> bool:
    """Whether only the two texts can hold the question.

    Raises:
        RowError: another column may hold it.

    """
    if not _holds(_text, has_prompt=False)(row):
        return False
    for name in (*SIDES, "system"):
        row.get(name)
    maybe = perhaps_prompts(row)
    if row.names.get("prompt_in") != "chosen" and maybe:
        expected = (
            "a column that holds the prompt: say which with --column "
            f"prompt={maybe[0]}, or --column prompt=chosen if both responses begin with it"
        )
        raise RowError(expected, f"only {', '.join(row.values)}", field="prompt")
    return True


def explain_sides(row: Row) -> None:
    """Raise the error for a row that has one of the two columns but no shape of this family.

    Raises:
        RowError: a column is missing, null, or of no kind that a shape of this family has.

    """
    chosen = row.need("chosen")
    row.need("rejected")
    if not (isinstance(chosen, str | list) or is_messages(chosen)):
        expected = "a string, a list of strings or a list of messages"
        raise RowError(expected, kind_of(chosen), field=row.path("chosen"))
    if _texts(chosen):
        row.need("prompt")


_BOTH = {"chosen": "chosen", "rejected": "rejected"}
PREFERENCES = (
    Shape(
        "reward-bench-2",
        _multi,
        _BOTH | {"prompt": "prompt"},
        fits=lambda row: (
            _texts(row.get("chosen")) and {"num_correct", "total_completions"} <= row.values.keys()
        ),
    ),
    Shape(
        "rm-bench",
        _multi,
        _BOTH | {"prompt": "prompt"},
        fits=lambda row: _texts(row.get("chosen")) and "domain" in row.values,
    ),
    Shape("multi-response preference", _multi, _BOTH, fits=_holds(_texts, has_prompt=True)),
    Shape("conversational preference", _conversational, _BOTH, fits=_holds(is_messages, has_prompt=True)),
    Shape(
        "conversational preference, implicit prompt",
        _conversational_implicit,
        _BOTH,
        fits=_holds(is_messages, has_prompt=False),
    ),
    Shape("hh-rlhf", _hh, _BOTH, fits=_holds(is_transcript, has_prompt=False)),
    Shape("preference", _standard, _BOTH, fits=_holds(_text, has_prompt=True)),
    Shape("preference, implicit prompt", _standard_implicit, _BOTH, fits=_alone),
    Shape(
        "stack-exchange-paired",
        _standard,
        {"prompt": "question", "chosen": "response_j", "rejected": "response_k"},
    ),
)
