"""Rows with several answers in a list and a rank, a score or a truth value for each."""

from typing import Any

from sparserm_cli.data import fields
from sparserm_cli.data.example import Message, RowError
from sparserm_cli.data.grouping import pairs_of, sides_of
from sparserm_cli.data.shapes.margins import number
from sparserm_cli.data.shapes.preferences import text, texts
from sparserm_cli.data.shapes.prompts import prompt
from sparserm_cli.data.shapes.shape import Parts, Row, Shape, assistant, sided
from sparserm_cli.data.shapes.values import is_messages, messages, reply
from sparserm_cli.data.sources.strict_json import kind_of


def ordered(
    before: tuple[Message, ...] | str, answers: list[Message], scores: list[float], *, margins: bool = True
) -> Parts:
    """Return answers, in their order, with every pair of a better and a worse; equal scores make none.

    Args:
        before: the conversation before the answers.
        answers: the answers.
        scores: one score per answer; the best answer has the largest.
        margins: whether the difference of two scores says how much better an answer is.

    """
    pairs = pairs_of(scores)
    gaps = tuple(scores[good] - scores[bad] for good, bad in pairs) if margins else ()
    return Parts(before, tuple(answers), sides_of(scores), pairs, gaps, undecided="" if pairs else "tie")


def _ranked(row: Row) -> Parts:
    """Read one rank per answer; rank 1 is the best."""
    ranks = _numbers(row, "ranks")
    answers = _answers(row, len(ranks))
    return ordered(prompt(row), answers, [-rank for rank in ranks], margins=False)


def _scored(row: Row) -> Parts:
    """Read one score per answer; the largest score is the best."""
    scores = _numbers(row, "scores")
    return ordered(prompt(row), _answers(row, len(scores)), scores)


def _truths(row: Row) -> Parts:
    """Read true and false answers, as TruthfulQA on the hub has them for its multiple choice."""
    held = row.need("targets")
    path = row.path("targets")
    if not isinstance(held, dict) or {"choices", "labels"} - held.keys():
        raise RowError("an object of choices and labels", kind_of(held), field=path)
    choices = fields.texts({f"{path}.choices": held["choices"]}, f"{path}.choices")
    labels = held["labels"]
    if not isinstance(labels, list) or len(labels) != len(choices) or not set(labels) <= {0, 1}:
        raise RowError("0 or 1 for each choice", "something else", field=f"{path}.labels")
    pairs = list(zip(choices, labels, strict=True))
    good, bad = (
        [assistant(answer) for answer, label in pairs if bool(label) is side] for side in (True, False)
    )
    if not good or not bad:
        raise RowError("true and false choices", "only one kind", field=f"{path}.labels")
    return sided(prompt(row), good, bad)


def _best_of_k(row: Row) -> Parts:
    """Read PPE's answers `response_1` to `response_K` with 0 or 1 for each, and the compared pairs."""
    path = row.path("scores")
    scores = [number(value, f"{path}[{place}]") for place, value in enumerate(row.need("scores"))]
    names = [f"response_{place}" for place in range(1, len(scores) + 1)]
    answers = [assistant(fields.nonempty(row.at(name), name)) for name in names]
    parts = ordered(prompt(row), answers, scores, margins=False)
    compared = row.need("compared")
    if not isinstance(compared, list) or not all(_two_places(pair, len(scores)) for pair in compared):
        raise RowError(
            "pairs of two answers by their numbers from 0", kind_of(compared), field=row.path("compared")
        )
    pairs = tuple(
        (first, second) if scores[first] > scores[second] else (second, first) for first, second in compared
    )
    if any(scores[good] == scores[bad] for good, bad in pairs):
        raise RowError("a right and a wrong answer in each pair", "two alike", field=row.path("compared"))
    return parts._replace(better=pairs, undecided=parts.undecided if pairs else "tie")


def _two_places(pair: Any, count: int) -> bool:
    """Whether a value is a pair of numbers of answers."""
    return (
        isinstance(pair, list)
        and len(pair) == 2
        and all(isinstance(place, int) and 0 <= place < count for place in pair)
    )


def _lists(row: Row) -> Parts:
    return sided(prompt(row), texts(row, "chosen"), texts(row, "rejected"))


def _truthfulqa(row: Row) -> Parts:
    sides = []
    for side in ("chosen", "rejected"):
        answers = [assistant(part.strip()) for part in text(row, side).split(";") if part.strip()]
        if not answers:
            raise RowError("answers set apart by ;", "none", field=row.path(side))
        sides.append(answers)
    return sided(prompt(row), sides[0], sides[1])


def _numbers(row: Row, name: str) -> list[float]:
    values, path = row.need(name), row.path(name)
    if not isinstance(values, list) or not values:
        raise RowError("a list of numbers", kind_of(values), field=path)
    return [number(value, f"{path}[{place}]") for place, value in enumerate(values)]


def _answers(row: Row, count: int) -> list[Message]:
    values, path = row.need("responses"), row.path("responses")
    if not isinstance(values, list):
        raise RowError("a list of answers", kind_of(values), field=path)
    if len(values) != count:
        raise RowError(f"{count} answers, as many as ratings", f"{len(values)}", field=path)
    return [_answer(value, f"{path}[{place}]") for place, value in enumerate(values)]


def _answer(value: Any, field: str) -> Message:
    if is_messages(value):
        return reply(messages(value, field), field)[1]
    return assistant(fields.nonempty(value, field))


RANKED = (
    Shape(
        "nectar",
        _ranked,
        {"prompt": "prompt", "responses": "answers[].answer", "ranks": "answers[].rank"},
        fits=lambda row: isinstance(row.values.get("answers"), list),
    ),
    Shape(
        "ppe-best-of-k",
        _best_of_k,
        {"prompt": "prompt", "scores": "scores", "compared": "sampled_conflict_pairs"},
        fits=lambda row: isinstance(row.values.get("scores"), list) and "response_1" in row.values,
    ),
    Shape(
        "ultrafeedback",
        _scored,
        {
            "prompt": "instruction",
            "responses": "completions[].response",
            "scores": "completions[].overall_score",
        },
        labels=("completions[].overall_score", "completions[].fine-grained_score"),
        decides="scores",
        optional={"system": "completions[].custom_system_prompt"},
        fits=lambda row: isinstance(row.values.get("completions"), list),
    ),
    Shape(
        "truthfulqa, generation",
        _lists,
        {"prompt": "question", "chosen": "correct_answers", "rejected": "incorrect_answers"},
    ),
    Shape(
        "truthfulqa, multiple choice",
        _truths,
        {"prompt": "question", "targets": "mc2_targets"},
        labels=("mc2_targets", "mc1_targets"),
        decides="targets",
    ),
    Shape(
        "truthfulqa",
        _truthfulqa,
        {"prompt": "Question", "chosen": "Correct Answers", "rejected": "Incorrect Answers"},
    ),
    Shape("distilabel-generations", _scored, {"responses": "generations", "scores": "ratings"}),
    Shape("ranked answers", _ranked, {"responses": "responses", "ranks": "ranks"}),
    Shape("scored answers", _scored, {"responses": "responses", "scores": "scores"}),
)
