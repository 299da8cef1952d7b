"""Every row shape: how it is recognised, what it becomes, and which field is named when it is wrong."""

from typing import Any

import pytest
from helpers.data_cases import SHAPE_CASES, TRAP_CASES
from hypothesis import given, settings
from hypothesis import strategies as st

from sparserm_cli.data.example import Example, Message, RowError
from sparserm_cli.data.shapes.prompts import shared_words
from sparserm_cli.data.shapes.shape import Row
from sparserm_cli.data.shapes.table import SHAPES, Purpose, example_of, recognise
from sparserm_cli.data.shapes.values import transcript

USER, REPLY = Message("user", "hi?"), Message("assistant", "yes")


def turn(role: str, content: str) -> dict[str, str]:
    """Return a message as rows hold it."""
    return {"role": role, "content": content}


def example(row: dict[str, Any], purpose: Purpose = "pairs") -> Example:
    """Return a row as an example of the shape it is recognised as."""
    shape = recognise(row)
    return example_of(Row(row, shape.names), shape, purpose, 1, 0)


def fault(row: dict[str, Any], like: dict[str, Any] | None = None) -> tuple[str, str]:
    """Return the field and the reason for which a row is refused, in a file whose first row is `like`."""

    def read() -> Example:
        shape = recognise(like or row)
        return example_of(Row(row, shape.names), shape, "pairs", 1, 0)

    with pytest.raises(RowError) as caught:
        read()
    return caught.value.field, caught.value.reason


QUESTION = [turn("system", "Be brief."), turn("user", "hi?")]
GOOD, BAD = turn("assistant", "yes"), turn("assistant", "no")
ROWS: dict[str, dict[str, Any]] = {
    "preference": {"prompt": "hi?", "chosen": "yes", "rejected": "no"},
    "preference, implicit prompt": {"chosen": "I say yes", "rejected": "I say no"},
    "conversational preference": {"prompt": QUESTION, "chosen": [GOOD], "rejected": [BAD]},
    "conversational preference, implicit prompt": {"chosen": [*QUESTION, GOOD], "rejected": [*QUESTION, BAD]},
    "multi-response preference": {"prompt": "hi?", "chosen": ["yes", "sure"], "rejected": ["no"]},
    "rm-bench": {
        "id": 7, "prompt": "hi?", "chosen": ["a", "b", "c"], "rejected": ["d", "e", "f"], "domain": "chat",
    },
    "reward-bench-2": {
        "id": "12", "prompt": "hi?", "chosen": ["a"], "rejected": ["b", "c", "d"], "num_correct": 1,
        "total_completions": 4, "subset": "Ties",
    },
    "hh-rlhf": {"chosen": "\n\nHuman: hi?\n\nAssistant: yes", "rejected": "\n\nHuman: hi?\n\nAssistant: no"},
    "truthfulqa": {
        "Type": "A", "Category": "Myths", "Question": "hi?", "Best Answer": "yes",
        "Correct Answers": "yes; sure;", "Incorrect Answers": "no", "Source": "x",
    },
    "prompt and responses": {"prompt": "hi?", "responses": ["yes", "no"]},
    "prompt and response": {"prompt": "hi?", "response": "yes"},
    "prompt and completion": {"prompt": "hi?", "completion": "yes"},
    "prompt and answer": {"question": "hi?", "answer": "yes"},
    "prompt and output": {"instruction": "hi?", "output": "yes"},
    "messages": {"messages": [*QUESTION, GOOD]},
    "conversations": {"conversations": [{"from": "human", "value": "hi?"}, {"from": "gpt", "value": "yes"}]},
    "conversation": {"conversation": [*QUESTION, GOOD]},
    "two answers, winner": {"question": "hi?", "response_a": "no", "response_b": "yes", "winner": "b"},
    "two answers, scores": {
        "prompt": "hi?", "response_a": "no", "response_b": "yes", "score_a": 1, "score_b": "2.5",
    },
    "two answers, strength": {"prompt": "hi?", "response_a": "yes", "response_b": "no", "strength": -1},
    "ranked answers": {"prompt": "hi?", "responses": ["no", "yes", "sure"], "ranks": [2, 1, 1]},
    "scored answers": {"prompt": "hi?", "responses": ["no", "yes"], "scores": [0.5, 2]},
    "judgebench": {
        "pair_id": "p", "original_id": "1", "source": "mmlu-pro-law", "question": "hi?",
        "response_A": "no", "response_B": "yes", "label": "B>A",
    },
    "ppe-best-of-k": {
        "question_id": "1", "prompt": "hi?", "response_1": "no", "response_2": "yes", "response_3": "sure",
        "scores": [False, True, True], "sampled_conflict_pairs": [[0, 2]],
    },
    "rated responses": {"prompt": "hi?", "response": "yes", "rating": 4},
    "kto": {"prompt": "hi?", "completion": "yes", "label": True},
}  # fmt: skip


def test_every_shape_has_a_row_here_or_a_file_among_the_cases():
    """The two tables cover all that the reader names."""
    of_cards = {
        "ppe-human-preference", "eloquent-preference-prediction", "summarize-from-feedback",
        "distilabel-generations",
    }  # fmt: skip
    files = {case.shape for case in (SHAPE_CASES | TRAP_CASES).values()}
    assert {*ROWS, *files, *of_cards} == set(SHAPES)


@pytest.mark.parametrize("name", ROWS)
def test_shape_is_recognised_from_its_columns(name: str):
    """The name is what the output shows."""
    assert recognise(ROWS[name]).name == name


SYSTEM = (Message("system", "Be brief."), USER)
EXPECTED: dict[str, tuple[Any, tuple[str, ...], tuple[int, ...]]] = {
    "preference": ("hi?", ("yes", "no"), (1, -1)),
    "preference, implicit prompt": ("I say", (" yes", " no"), (1, -1)),
    "conversational preference": (SYSTEM, ("yes", "no"), (1, -1)),
    "conversational preference, implicit prompt": (SYSTEM, ("yes", "no"), (1, -1)),
    "multi-response preference": ("hi?", ("yes", "sure", "no"), (1, 1, -1)),
    "rm-bench": ("hi?", ("a", "b", "c", "d", "e", "f"), (1, 1, 1, -1, -1, -1)),
    "reward-bench-2": ("hi?", ("a", "b", "c", "d"), (1, -1, -1, -1)),
    "hh-rlhf": ((USER,), ("yes", "no"), (1, -1)),
    "truthfulqa": ("hi?", ("yes", "sure", "no"), (1, 1, -1)),
    "prompt and responses": ("hi?", ("yes", "no"), (0, 0)),
    "prompt and response": ("hi?", ("yes",), (0,)),
    "prompt and completion": ("hi?", ("yes",), (0,)),
    "prompt and answer": ("hi?", ("yes",), (0,)),
    "prompt and output": ("hi?", ("yes",), (0,)),
    "messages": (SYSTEM, ("yes",), (0,)),
    "conversations": ((USER,), ("yes",), (0,)),
    "conversation": (SYSTEM, ("yes",), (0,)),
    "two answers, winner": ("hi?", ("no", "yes"), (-1, 1)),
    "two answers, scores": ("hi?", ("no", "yes"), (-1, 1)),
    "two answers, strength": ("hi?", ("yes", "no"), (1, -1)),
    "ranked answers": ("hi?", ("no", "yes", "sure"), (-1, 1, 1)),
    "scored answers": ("hi?", ("no", "yes"), (-1, 1)),
    "judgebench": ("hi?", ("no", "yes"), (-1, 1)),
    "ppe-best-of-k": ("hi?", ("no", "yes", "sure"), (-1, 1, 1)),
    "rated responses": ("hi?", ("yes",), (0,)),
    "kto": ("hi?", ("yes",), (0,)),
}


@pytest.mark.parametrize("name", ROWS)
def test_shape_becomes_prompt_responses_and_sides(name: str):
    """Chosen responses come first; rows without labels have sides of 0."""
    made = example(ROWS[name])
    assert (made.prompt, made.responses, made.sides) == EXPECTED[name]


@pytest.mark.parametrize("name", ROWS)
def test_for_scoring_preferences_lose_their_sides(name: str):
    """A preference file may be scored: chosen, then rejected, all with side 0."""
    made = example(ROWS[name], "responses")
    assert made.responses == EXPECTED[name][1]
    assert set(made.sides) == {0}


def test_ids_subsets_and_other_columns():
    """An integer id becomes text; a domain or a category is the subset; the other columns are kept."""
    made = example(ROWS["rm-bench"])
    assert (made.id, made.subset, made.extra) == ("7", "chat", {"domain": "chat"})
    made = example(ROWS["reward-bench-2"])
    assert (made.id, made.subset) == ("12", "Ties")
    assert made.extra == {"num_correct": 1, "total_completions": 4, "subset": "Ties"}
    assert example(ROWS["truthfulqa"]).subset == "Myths"
    odd = {**ROWS["preference"], "when": object(), "nan": float("nan"), "list": [1, {"a": None}]}
    assert example(odd).extra == {"list": [1, {"a": None}]}
    ids = {1.5: "1.5", True: "true", "x": "x", None: None}
    assert {given: example({**ROWS["preference"], "id": given}).id for given in ids} == ids
    assert example({**ROWS["preference"], "id": {"$oid": "65"}}).id is None


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        ({"rejected": ...}, "rejected", 'expected the column, found only "prompt", "chosen"'),
        ({"rejected": None}, "rejected", "expected a value, found null"),
        ({"rejected": 3}, "rejected", "expected a string, found a number"),
        ({"rejected": ["no"]}, "rejected", "expected a string, found a list"),
        ({"rejected": ""}, "rejected", "expected text, found an empty string"),
        ({"chosen": " \n"}, "chosen", "expected text, found only white space"),
        ({"prompt": ""}, "prompt", "expected text, found an empty string"),
        ({"prompt": None}, "prompt", "expected a value, found null"),
        ({"prompt": []}, "prompt", "expected at least one message, found an empty list"),
        ({"prompt": [3]}, "prompt[0]", 'expected a message {"role", "content"}, found a number'),
        ({"prompt": [{"role": "user"}]}, "prompt[0]", "expected the key content, found none"),
        ({"prompt": [turn("", "x")]}, "prompt[0].role", "expected a role, found an empty string"),
        (
            {"prompt": [{"role": "user", "content": None}]},
            "prompt[0].content",
            "expected a string, found null",
        ),
    ],
)
def test_row_18_preference_fields(change: dict[str, Any], field: str, reason: str):
    """Missing, null, of the wrong type or empty: the field is named, and what it held."""
    row = {key: value for key, value in {**ROWS["preference"], **change}.items() if value is not ...}
    assert fault(row, like=ROWS["preference"]) == (field, reason)


@pytest.mark.parametrize(
    ("name", "change", "field", "reason"),
    [
        ("multi-response preference", {"chosen": "yes"}, "chosen",
         "expected a list of strings, found a string"),
        ("multi-response preference", {"rejected": []}, "rejected",
         "expected at least one string, found an empty list"),
        ("multi-response preference", {"chosen": ["a", None]}, "chosen[1]", "expected a string, found null"),
        ("conversational preference", {"chosen": "yes"}, "chosen",
         "expected a list of messages, found a string"),
        ("conversational preference", {"chosen": QUESTION}, "chosen",
         'expected a last turn of the assistant, found one of role "user"'),
        ("conversational preference", {"chosen": [turn("user", "else"), GOOD]}, "chosen",
         "expected one assistant turn after the prompt, found 2 turns of another history"),
        ("conversational preference", {"rejected": [turn("assistant", "")]}, "rejected[0].content",
         "expected text, found an empty string"),
        ("conversational preference, implicit prompt", {"rejected": [turn("user", "x"), BAD]}, "rejected",
         "expected the prompt of chosen, found another from turn 1 on"),
        ("conversational preference, implicit prompt", {"chosen": [GOOD], "rejected": [BAD]}, "chosen",
         "expected a turn before the response, found none"),
        ("preference, implicit prompt", {"chosen": "yes", "rejected": "no"}, "prompt",
         "expected a prompt, in a column or at the beginning of both responses, found no shared words"),
        ("truthfulqa", {"Correct Answers": " ; ;"}, "Correct Answers",
         "expected answers set apart by ;, found none"),
        ("prompt and responses", {"responses": {}}, "responses",
         "expected a list of strings, found an object"),
        ("prompt and response", {"response": True}, "response", "expected a string, found true or false"),
        ("messages", {"messages": [GOOD]}, "messages", "expected a turn before the response, found none"),
    ],
)  # fmt: skip
def test_row_18_fields_of_the_other_shapes(name: str, change: dict[str, Any], field: str, reason: str):
    """Each shape names the field at fault."""
    assert fault({**ROWS[name], **change}, like=ROWS[name]) == (field, reason)


def test_row_18_unknown_columns():
    """A row of no known shape shows the columns it has."""
    with pytest.raises(RowError) as caught:
        recognise({"ask": "a", "reply": "b"})
    advice = "columns of a known shape; use --column prompt=ask --column response=reply"
    assert caught.value.reason == f'expected {advice}, found "ask", "reply"'
    assert fault({"chosen": "x"}) == ("rejected", 'expected the column, found only "chosen"')
    assert fault({"chosen": 3, "rejected": 4}) == (
        "chosen", "expected a string, a list of strings or a list of messages, found a number",
    )  # fmt: skip


def test_row_23_empty_last_turn_of_a_transcript():
    """One in 800 HH-RLHF rows ends so; there is nothing to pool."""
    row = {"chosen": "\n\nHuman: hi?\n\nAssistant: ", "rejected": "\n\nHuman: hi?\n\nAssistant: no"}
    assert fault(row) == ("chosen[1].content", "expected text, found an empty string")


def test_transcripts_of_several_turns():
    """The last assistant turn is the response, all before it the prompt; stray white space is taken off."""
    text = "\n\nHuman: hi?\n\nAssistant: yes\n\nHuman: why?\nreally\n\nAssistant: {}"
    made = example({"chosen": text.format(" because"), "rejected": text.format("dunno ")})
    assert made.prompt == (USER, REPLY, Message("user", "why?\nreally"))
    assert made.responses == ("because", "dunno")


def test_transcripts_that_do_not_share_their_prompt_or_do_not_end_with_the_assistant():
    """The histories are compared turn by turn, the ends by role."""
    other = {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: c\n\nAssistant: d"}
    assert fault(other) == ("rejected", "expected the prompt of chosen, found another from turn 1 on")
    longer = {
        "chosen": "\n\nHuman: a\n\nAssistant: b",
        "rejected": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d",
    }
    assert fault(longer) == ("rejected", "expected the prompt of chosen, found another from turn 2 on")
    human = {"chosen": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c", "rejected": "\n\nHuman: a\n\nAssistant: b"}
    assert fault(human) == ("chosen", 'expected a last turn of the assistant, found one of role "user"')
    with pytest.raises(RowError, match="expected a transcript that begins with"):
        transcript("Hello", "chosen")


def test_whole_conversations_beside_a_prompt():
    """UltraFeedback repeats the prompt in each side, as text or as messages."""
    sides = {"chosen": [turn("user", "hi?"), GOOD], "rejected": [turn("user", "hi?"), BAD]}
    for prompt in ("hi?", [turn("user", "hi?")]):
        made = example({"prompt": prompt, **sides})
        assert (made.prompt, made.responses) == ((USER,), ("yes", "no"))


def test_completions_as_messages():
    """TRL's conversational prompt-completion rows."""
    made = example({"prompt": [turn("user", "hi?")], "completion": [GOOD]}, "responses")
    assert (made.prompt, made.responses) == ((USER,), ("yes",))


@pytest.mark.parametrize(
    ("first", "second", "shared"),
    [
        ("The sky is blue.", "The sky is green.", "The sky is"),
        ("The sky is grey.", "The sky is green.", "The sky is"),
        ("Q: x\nA", "Q: x B", "Q: x"),
        ("one two", "one two three", "one"),
        ("same words", "same words", "same"),
        ("yes", "no", ""),
        ("yesterday", "yes", ""),
        ("a  \n b", "a  \n c", "a"),
        ("a  b", "a \nb", "a"),
    ],
)
def test_implicit_prompt_of_plain_strings_ends_at_a_word(first: str, second: str, shared: str):
    """The shared part is cut back to white space, which stays with the responses."""
    assert first[: shared_words(first, second)] == shared
    assert second[: shared_words(second, first)] == shared


@settings(deadline=None, max_examples=500)
@given(st.text("ab \n"), st.text("ab \n"))
def test_implicit_prompt_is_shared_and_never_cuts_a_word(first: str, second: str):
    """For any two texts: a common prefix that ends where a word ends in both."""
    cut = shared_words(first, second)
    assert first[:cut] == second[:cut]
    assert cut == 0 or all(text[cut : cut + 1].isspace() for text in (first, second))
    assert not first[:cut].endswith((" ", "\n"))
