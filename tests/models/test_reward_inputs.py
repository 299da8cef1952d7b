"""What a reward model takes as prompts and responses, and what it refuses by name."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset

from sparserm_cli.data.example import Message
from sparserm_cli.errors import BadInputError, UsageError
from sparserm_cli.models.reward_inputs import examples_of, rows_of, with_columns

TALK = [{"role": "user", "content": "Is it?"}]
TURNS = (Message("user", "Is it?"),)
ONE_OR_LIST = "give one prompt with it, or a list of responses"


@pytest.mark.parametrize(
    ("prompts", "responses", "expected"),
    [
        ("Is it?", "Paris.", [("Is it?", "Paris.")]),
        ("Is it?", ["Yes.", "No."], [("Is it?", "Yes."), ("Is it?", "No.")]),
        (["Is it?", "And?"], ["Yes.", "No."], [("Is it?", "Yes."), ("And?", "No.")]),
        (("Is it?",), ("Yes.",), [("Is it?", "Yes.")]),
        (np.array(["Is it?"]), pd.Series(["Yes."]), [("Is it?", "Yes.")]),
        ((text for text in ["a", "b"]), (text for text in ["c", "d"]), [("a", "c"), ("b", "d")]),
        (TALK, "Yes.", [(TURNS, "Yes.")]),
        (list(TURNS), ["Yes.", "No."], [(TURNS, "Yes."), (TURNS, "No.")]),
        ([TALK, "Is it?"], ["Yes.", "No."], [(TURNS, "Yes."), ("Is it?", "No.")]),
        ([], [], []),
        ("Is it?", [], []),
    ],
)
def test_prompts_and_responses_are_paired(prompts: Any, responses: Any, expected: Any):
    """A text is a text, never a list of its letters; one prompt stands for all responses."""
    examples = examples_of(prompts, responses)
    assert [(row.prompt, row.responses[0]) for row in examples] == expected
    assert [row.row for row in examples] == list(range(1, len(expected) + 1))


@pytest.mark.parametrize(
    ("prompts", "responses", "message"),
    [
        (
            ["Is it?", "And?"],
            "Yes.",
            "responses: expected a list of 2 texts, found one text; " + ONE_OR_LIST,
        ),
        (None, "Yes.", "prompts: expected a text, or a list of them, found None; correct it"),
        ("Is it?", None, "responses: expected a text, or a list of them, found None; correct it"),
        ("Is it?", b"Yes.", "responses: expected a text, or a list of them, found bytes; correct it"),
        (
            ["Is it?"],
            [TALK],
            "response 1, response: expected a string, found a list; leave it out",
        ),
        (
            ["Is it?", 7],
            ["Yes.", "No."],
            "response 2, prompt: expected a list of messages, found a number; leave it out",
        ),
        (
            [{"role": "user", "text": "Is it?"}],
            "Yes.",
            "response 1, prompt[0]: expected the key content, found none; leave it out",
        ),
    ],
)
def test_anything_else_is_refused_by_name(prompts: Any, responses: Any, message: str):
    """With what was expected and found."""
    with pytest.raises((UsageError, BadInputError)) as error:
        examples_of(prompts, responses)
    assert str(error.value) == message


def test_as_many_prompts_as_responses():
    """Unless there is one prompt for all."""
    with pytest.raises(ValueError, match="2 prompts for 3 responses"):
        examples_of(["a", "b"], ["c", "d", "e"])


PAIRS = [
    {"prompt": "Is it?", "chosen": "Yes.", "rejected": "No.", "source": "a"},
    {"prompt": "And?", "chosen": "Well.", "rejected": "Oh.", "source": "b"},
]


@pytest.mark.parametrize("form", [list, pd.DataFrame, Dataset.from_list])
def test_preference_rows_get_a_score_on_either_side(form: Any):
    """In the form in which they came, every other column kept."""
    dataset = form(PAIRS)
    rows = rows_of(dataset)
    assert [row.responses for row in rows.examples] == [("Yes.", "No."), ("Well.", "Oh.")]
    columns = rows.columns(np.array([1, 2, 3, 4], np.float32))
    assert columns == {"score_chosen": [1, 3], "score_rejected": [2, 4]}
    scored = with_columns(dataset, columns)
    assert type(scored) is type(dataset)
    assert [dict(row) for row in (scored.to_dict("records") if form is pd.DataFrame else scored)] == [
        {**PAIRS[0], "score_chosen": 1, "score_rejected": 2},
        {**PAIRS[1], "score_chosen": 3, "score_rejected": 4},
    ]
    with pytest.raises(UsageError, match="expected no column score_chosen yet, found one; rename or remove"):
        with_columns(scored, columns)


def test_rows_with_one_response_get_a_score_and_others_a_list():
    """As in scores.jsonl."""
    single = rows_of([{"prompt": "a", "response": "b"}, {"prompt": "c", "response": "d"}])
    assert single.columns(np.array([1, 2], np.float32)) == {"score": [1, 2]}
    several = rows_of([{"prompt": "a", "responses": ["b", "c"]}, {"prompt": "d", "responses": ["e"]}])
    assert several.columns(np.array([1, 2, 3], np.float32)) == {"scores": [[1, 2], [3]]}
    assert rows_of([]).columns(np.empty(0, np.float32)) == {"score": []}


def test_a_row_that_cannot_be_used_is_named():
    """By its number from 1, and its column."""
    with pytest.raises(BadInputError, match=r"^dataset: row 2: rejected: expected "):
        rows_of([PAIRS[0], {**PAIRS[1], "rejected": None}])
    for wrong, kind in ((7, "int"), ("pairs.jsonl", "str"), (["a"], "list")):
        with pytest.raises(UsageError) as error:
            rows_of(wrong)
        assert str(error.value) == (
            f"dataset: expected a datasets.Dataset, a pandas.DataFrame or a list of rows, found {kind}; "
            "convert it, or score a file with `sparserm score`"
        )
