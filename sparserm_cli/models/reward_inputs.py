"""Turn the prompts and responses that a caller passes into rows to score.

Nothing is guessed: a text in place of a list, or a list in place of a text, is refused by name. A string is
also a sequence of characters and would be scored letter by letter.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from sparserm_cli.data.example import CHOSEN, REJECTED, UNLABELLED, Example, Message, RowError
from sparserm_cli.data.messages import listed, normalise_prompt, plain_text
from sparserm_cli.data.shapes.shape import Row
from sparserm_cli.data.shapes.table import example_of, recognise
from sparserm_cli.errors import BadInputError, UsageError

Prompt = str | Sequence[Message | Mapping[str, Any]]
"""A user's text, or the conversation so far as messages."""

_SIDES = (("score_chosen", CHOSEN), ("score_rejected", REJECTED))


def examples_of(prompts: Any, responses: Any) -> list[Example]:
    """Return one row for each response that is to be scored.

    Args:
        prompts: a prompt for all responses, or as many prompts as there are responses. A prompt is a text or
            a list of messages.
        responses: a text, or several.

    Raises:
        UsageError: a text stands where a list is due, or something that is neither.
        ValueError: not as many prompts as responses.
        BadInputError: a prompt or response is neither text nor messages; names it, from 1.

    """
    return [_example(number, *pair) for number, pair in enumerate(_paired(prompts, responses), start=1)]


def _paired(prompts: Any, responses: Any) -> list[tuple[Any, Any]]:
    """Return the prompt and the response of each row, whatever they are."""
    alone = isinstance(responses, str)
    answers = [responses] if alone else _items(responses, "responses")
    if isinstance(prompts, str) or _is_conversation(prompts):
        return [(prompts, answer) for answer in answers]
    questions = _items(prompts, "prompts")
    if alone:
        hint = "give one prompt with it, or a list of responses"
        raise UsageError("responses", f"a list of {len(questions)} texts", "one text", hint)
    if len(questions) != len(answers):
        raise ValueError(f"{len(questions)} prompts for {len(answers)} responses")
    return list(zip(questions, answers, strict=True))


def _items(values: Any, name: str) -> list[Any]:
    """Return the items of a list, tuple, array, column or iterator."""
    if isinstance(values, Iterable) and not isinstance(values, str | bytes | Mapping):
        return list(values)
    raise UsageError(name, "a text, or a list of them", _kind(values), "correct it")


def _is_conversation(value: Any) -> bool:
    """Return whether a value is one list of messages, and not a list of prompts."""
    turns = listed(value)
    return bool(turns) and all(isinstance(turn, Message | Mapping) for turn in turns or ())


def _example(number: int, prompt: Any, response: Any) -> Example:
    """Return a prompt and a response as one row."""
    try:
        turns, answer = normalise_prompt(prompt), plain_text(response, "response")
    except RowError as error:
        where, hint = f"response {number}, {error.field}", "leave it out"
        raise BadInputError(where, error.expected, error.found, hint) from None
    return Example(number, None, turns, (answer,), (UNLABELLED,), None, {})


def _kind(value: Any) -> str:
    """Return what a value is, for an error."""
    return "None" if value is None else type(value).__name__


class ScoredRows(NamedTuple):
    """Rows of a data set, and whether each response has a side."""

    examples: list[Example]
    """One example per row."""
    has_sides: bool
    """Whether the rows say which responses are better."""

    def columns(self, scores: Float32[np.ndarray, " n"]) -> dict[str, list[Any]]:
        """Return the scores of all responses, row after row, as columns.

        Rows with one response get `score`; preference rows `score_chosen` and `score_rejected`; rows with
        several responses, or with a rank for each, `scores`, in the order of the row. Where a row of the data
        may have several, the column holds lists.
        """
        ends = np.cumsum([len(row.responses) for row in self.examples])[:-1]
        of_row = [part.tolist() for part in np.split(scores, ends)] if self.examples else []
        if not self.has_sides:
            return _column("score", of_row)
        columns: dict[str, list[Any]] = {}
        for name, side in _SIDES:
            parts = [
                [score for score, its in zip(values, row.sides, strict=True) if its == side]
                for values, row in zip(of_row, self.examples, strict=True)
            ]
            columns |= _column(name, parts)
        return columns


def _column(name: str, parts: list[list[float]]) -> dict[str, list[Any]]:
    """Return a column of numbers where every row has exactly one, else of lists."""
    if all(len(part) == 1 for part in parts):
        return {name: [part[0] for part in parts]}
    return {name if name != "score" else "scores": parts}


def rows_of(dataset: Any) -> ScoredRows:
    """Recognise the rows of a data set, as the command line does from a file.

    Args:
        dataset: a `datasets.Dataset`, a `pandas.DataFrame`, or a list of rows as dictionaries.

    Raises:
        UsageError: it is something else.
        BadInputError: a row cannot be used; names it, from 1.

    """
    examples: list[Example] = []
    shape = None
    for number, row in enumerate(_records(dataset), start=1):
        try:
            shape = shape or recognise(row)
            examples.append(example_of(Row(row, shape.names), shape, "any", number, None))
        except RowError as error:
            where = f"dataset: row {number}" + (f": {error.field}" if error.field else "")
            raise BadInputError(where, error.expected, error.found, "correct it or leave it out") from None
    sided = bool(examples) and all(side != UNLABELLED for row in examples for side in row.sides)
    return ScoredRows(examples, sided)


def _records(dataset: Any) -> Iterable[dict[str, Any]]:
    """Return the rows of a data set as dictionaries."""
    if hasattr(dataset, "to_dict") and hasattr(dataset, "iterrows"):  # pandas, without importing it
        records: list[dict[str, Any]] = dataset.to_dict("records")
        return records
    rows = dataset if isinstance(dataset, Iterable) and not isinstance(dataset, str | Mapping) else None
    listed = [] if rows is None else list(rows)
    if rows is None or not all(isinstance(row, Mapping) for row in listed):
        expected = "a datasets.Dataset, a pandas.DataFrame or a list of rows"
        hint = "convert it, or score a file with `sparserm score`"
        raise UsageError("dataset", expected, _kind(dataset), hint)
    return [dict(row) for row in listed]


def with_columns(dataset: Any, columns: Mapping[str, list[Any]]) -> Any:
    """Return the data set with some columns more, in the form that it came in.

    Raises:
        UsageError: it has one of the columns already.

    """
    if isinstance(dataset, list | tuple):
        there = {name for row in dataset for name in row}
    else:  # a datasets.Dataset has column_names, a pandas.DataFrame columns
        there = set(dataset.column_names if hasattr(dataset, "column_names") else dataset.columns)
    for name in columns:
        if name in there:
            raise UsageError("dataset", f"no column {name} yet", "one", "rename or remove it")
    if hasattr(dataset, "add_column"):
        for name, values in columns.items():
            dataset = dataset.add_column(name, values)
        return dataset
    if hasattr(dataset, "assign"):
        return dataset.assign(**columns)
    names, rows = list(columns), zip(*columns.values(), strict=True)
    return [
        {**row, **dict(zip(names, values, strict=True))} for row, values in zip(dataset, rows, strict=True)
    ]
