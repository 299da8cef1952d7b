"""Rows with two answers and a verdict: a winner, a signed strength of preference, or one score per answer."""

import re
from collections.abc import Mapping
from typing import Any

from sparserm_cli.data import fields
from sparserm_cli.data.example import Message, RowError
from sparserm_cli.data.shapes.margins import number
from sparserm_cli.data.shapes.preferences import first_difference, turns_of
from sparserm_cli.data.shapes.prompts import prompt, with_system
from sparserm_cli.data.shapes.shape import Parts, Row, Shape, assistant
from sparserm_cli.data.shapes.values import is_messages, messages, reply
from sparserm_cli.data.sources.strict_json import kind_of, shown

TIES = {"tie", "both", "neither", "equal", "same", "draw", "none", "both bad", "both good", "all tied"}
"""Verdicts that prefer neither answer; longer verdicts such as `tie (bothbad)` begin with one of these."""

_A, _B = ("a", "model_a", "response_a", "first", "left"), ("b", "model_b", "response_b", "second", "right")


def verdict(row: Row) -> tuple[int, float | None]:
    """Return +1 if the first answer wins, -1 if the second does, 0 if neither does, and the strength.

    Raises:
        RowError: the row has no verdict, or one in unknown words.

    """
    if "strength" in row.names:
        strength = number(row.need("strength"), row.path("strength"))
        return _sign(-strength), abs(strength)
    if "score_a" in row.names:
        first, second = (number(row.need(name), row.path(name)) for name in ("score_a", "score_b"))
        return _sign(first - second), abs(first - second)
    if "won_a" in row.names:
        first, second = (number(row.need(name), row.path(name)) for name in ("won_a", "won_b"))
        return _sign(first - second), None
    return _winner(row, row.need("winner")), None


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _winner(row: Row, value: Any) -> int:
    """Return the winner, given as a word or as the last number in the name of the answer's column."""
    words = str(value).strip().lower().removesuffix(".0")
    if words in TIES or words.startswith("tie"):
        return 0
    ours = {name: sign for names, sign in ((_A, 1), (_B, -1)) for name in names}
    for name, sign in (("response_a", 1), ("response_b", -1)):
        path = row.path(name)
        ours[path.lower()] = sign
        numbers = re.findall(r"\d+", path)
        if numbers:
            ours[numbers[-1]] = sign
    winner = ours.get(words)
    if winner is None:
        expected = f"the winner, such as a, b or tie, or {row.path('response_a')}"
        what = shown(value, 30) if isinstance(value, str) else f"{kind_of(value)}: {words[:30]}"
        raise RowError(expected, what, field=row.path("winner"))
    return winner


def decided(
    before: tuple[Message, ...] | str, first: Message, second: Message, said: tuple[int, float | None]
) -> Parts:
    """Return two answers, in their order, with a verdict."""
    sign, margin = said
    if sign == 0:
        return Parts(before, (first, second), (0, 0), undecided="tie")
    margins = () if margin is None else (margin,)
    return Parts(before, (first, second), (sign, -sign), margins=margins)


def _answers(row: Row) -> Parts:
    before = prompt(row)
    answers = []
    for name in _ANSWERS:
        value, path = row.need(name), row.path(name)
        if is_messages(value):
            answers.append(reply(messages(value, path), path)[1])
        else:
            answers.append(assistant(fields.nonempty(value, path)))
    return decided(before, answers[0], answers[1], verdict(row))


def _conversations(row: Row) -> Parts:
    """Read two conversations, judged by the answers to the turn that the row names, by default the last."""
    both = [turns_of(row, name) for name in ("conversation_a", "conversation_b")]
    turn = row.get("turn")
    if isinstance(turn, int) and not isinstance(turn, bool):
        both = [_up_to(turns, turn) for turns in both]
    return _judged(row, both[0], both[1])


def _up_to(turns: tuple[Message, ...], turn: int) -> tuple[Message, ...]:
    """Return a conversation up to the answer to the user's turn of that number, from 1."""
    user_turns = [place for place, message in enumerate(turns) if message.role == "user"]
    return turns[: user_turns[turn]] if turn < len(user_turns) else turns


def _judged(row: Row, first: tuple[Message, ...], second: tuple[Message, ...]) -> Parts:
    (history, first_answer), (other, second_answer) = (
        reply(turns, row.path(name))
        for turns, name in ((first, "conversation_a"), (second, "conversation_b"))
    )
    if not history or not other:
        raise RowError("a turn before the response", "none", field=row.path("conversation_a"))
    said = verdict(row)
    if history != other:
        if first_difference(history, other) == 0:
            raise RowError("two answers to one question", "two questions", field=row.path("conversation_b"))
        # The verdict is on two whole conversations, and the two answers have no common prompt.
        return Parts(history, (first_answer,), (0,), undecided="histories that differ")
    return decided(with_system(row, history), first_answer, second_answer, said)


def _lists(row: Row) -> Parts:
    """Read the questions and the answers of each side, given as lists of equal length."""
    questions = fields.texts({"prompt": _listed(row, "prompt")}, "prompt")
    both = []
    for name in _ANSWERS:
        answers, path = _listed(row, name), row.path(name)
        if len(answers) != len(questions):
            raise RowError(f"{len(questions)} answers", f"{len(answers)}", field=path)
        turns: list[Message] = []
        for place, (question, answer) in enumerate(zip(questions, answers, strict=True)):
            turns += [Message("user", question), assistant(fields.nonempty(answer, f"{path}[{place}]"))]
        both.append(tuple(turns))
    row.get("tied")
    return _judged(row, both[0], both[1])


def _listed(row: Row, name: str) -> list[Any]:
    value = row.need(name)
    return value if isinstance(value, list) else [value]


def _shp(row: Row) -> Parts:
    """Read the label of the data set SHP: 1 means that the first answer is better, 0 the second."""
    label = number(row.need("winner"), row.path("winner"))
    if label not in (0, 1):
        raise RowError("0 or 1", f"{label:g}", field=row.path("winner"))
    first, second = (assistant(fields.nonempty(row.need(name), row.path(name))) for name in _ANSWERS)
    return decided(prompt(row), first, second, (1 if label else -1, None))


def _judge_bench(row: Row) -> Parts:
    """Read the label of JudgeBench: `A>B` means that the first answer is right, `B>A` the second."""
    label = row.need("winner")
    if label not in ("A>B", "B>A"):
        raise RowError("A>B or B>A", shown(str(label), 30), field=row.path("winner"))
    first, second = (assistant(fields.nonempty(row.need(name), row.path(name))) for name in _ANSWERS)
    return decided(prompt(row), first, second, (1 if label == "A>B" else -1, None))


_ANSWERS = ("response_a", "response_b")


def _entry(name: str, columns: Mapping[str, str], **more: Any) -> Shape:
    return Shape(name, more.pop("read", _answers), columns, **more)


TWO_ANSWERS = (
    Shape(
        "arena, conversations",
        _conversations,
        {"conversation_a": "conversation_a", "conversation_b": "conversation_b", "winner": "winner"},
        optional={"turn": "turn"},
    ),
    Shape(
        "arena, lists",
        _lists,
        {
            "prompt": "prompt",
            "response_a": "response_a",
            "response_b": "response_b",
            "won_a": "winner_model_a",
            "won_b": "winner_model_b",
        },
        optional={"tied": "winner_tie"},
    ),
    _entry(
        "helpsteer2-preference",
        {
            "prompt": "prompt",
            "response_a": "response_1",
            "response_b": "response_2",
            "strength": "preference_strength",
        },
    ),
    _entry(
        "helpsteer3-preference",
        {
            "prompt": "context",
            "response_a": "response1",
            "response_b": "response2",
            "strength": "overall_preference",
        },
    ),
    _entry(
        "pku-saferlhf",
        {
            "prompt": "prompt",
            "response_a": "response_0",
            "response_b": "response_1",
            "winner": "safer_response_id",
        },
        labels=("safer_response_id", "better_response_id"),
        decides="winner",
    ),
    _entry(
        "shp",
        {"prompt": "history", "response_a": "human_ref_A", "response_b": "human_ref_B", "winner": "labels"},
        read=_shp,
    ),
    _entry(
        "judgebench",
        {
            "prompt": "question",
            "response_a": "response_A",
            "response_b": "response_B",
            "winner": "label",
            "subset": "source",
        },
        read=_judge_bench,
    ),
    _entry(
        "webgpt",
        {
            "prompt": "question.full_text",
            "response_a": "answer_0",
            "response_b": "answer_1",
            "score_a": "score_0",
            "score_b": "score_1",
        },
    ),
    _entry(
        "ppe-human-preference",
        {"prompt": "prompt", "response_a": "response_1", "response_b": "response_2", "winner": "winner"},
    ),
    _entry(
        "eloquent-preference-prediction",
        {
            "prompt": "instruction",
            "response_a": "output_a",
            "response_b": "output_b",
            "winner": "overall_quality_preference",
        },
        labels=(
            "overall_quality_preference",
            "relevance_preference",
            "naturalness_preference",
            "truthfulness_preference",
            "safety_preference",
        ),
        decides="winner",
    ),
    _entry(
        "summarize-from-feedback",
        {
            "prompt": "info.post",
            "response_a": "summaries[0].text",
            "response_b": "summaries[1].text",
            "winner": "choice",
        },
    ),
    _entry(
        "two answers, winner",
        {"response_a": "response_a", "response_b": "response_b", "winner": "winner"},
    ),
    _entry(
        "two answers, scores",
        {
            "response_a": "response_a",
            "response_b": "response_b",
            "score_a": "score_a",
            "score_b": "score_b",
        },
    ),
    _entry(
        "two answers, strength",
        {"response_a": "response_a", "response_b": "response_b", "strength": "strength"},
    ),
)
