"""Marks of contexts and names made by rule, on contexts whose answer is known."""

import pytest
from helpers.tiny_models import tiny_tokenizer

from sparserm_cli.analysis.contexts import Context
from sparserm_cli.analysis.describe.keywords import (
    END,
    START,
    Marked,
    marked,
    over_represented,
    rule_name,
    word_mark,
)


def context(text: str, start: int = 1, *, last: bool = False) -> Context:
    """Return a context with this text; the tiny tokenizer has one token per byte."""
    ids = tuple(tiny_tokenizer()(text)["input_ids"])
    return Context(0, start, 1.0, start, (0.0,) * len(ids), ids, last)


def texts(*words: str) -> list[Marked]:
    """Return contexts that have these words as marks."""
    return [Marked(word, frozenset(f"“{part}”" for part in word.split())) for word in words]


@pytest.mark.parametrize(
    ("text", "marks"),
    [
        (
            "It's NOT so",
            {"“it's”", "“not”", "“so”", "capital letters"},
        ),
        ("in Rome", {"“in”", "“rome”", "a capitalised word within a sentence"}),
        ("in 1999?", {"“in”", "a number", "a question mark"}),
        ('1. "yes"!', {"“yes”", "a number", "a list", "quotation marks", "an exclamation mark"}),
        ("a\n(b)", {"“a”", "“b”", "a line break", "brackets"}),
        ("x = {}", {"“x”", "code"}),
    ],
)
def test_marks_of_a_text(text: str, marks: set[str]) -> None:
    """Words in lower case, and the signs of form that are there."""
    (marks_of_text,) = marked(tiny_tokenizer(), [context(text)])
    assert marks_of_text == (text, marks)


def test_marks_of_the_place_in_the_response() -> None:
    """The first and the last tokens of a response."""
    (marks_of_text,) = marked(tiny_tokenizer(), [context("a", 0, last=True)])
    assert marks_of_text.marks == {"“a”", START, END}
    assert marked(tiny_tokenizer(), []) == []


def test_control_characters_of_the_data_reach_no_mark() -> None:
    """They stay in no word."""
    (marks_of_text,) = marked(tiny_tokenizer(), [context("a\x1bb")])
    assert marks_of_text.marks == {"“a”", "“b”"}


@pytest.mark.parametrize(("text", "mark"), [(" Paris", "“paris”"), ("'s", None), ("3", None), (" a", None)])
def test_only_words_of_tokens_are_candidates(text: str, mark: str | None) -> None:
    """Other tokens are shown, but name nothing."""
    assert word_mark(text) == mark


def test_words_are_counted_once_per_context() -> None:
    """Three contexts with firing have red, one of the others has."""
    words = over_represented(texts("red", "red blue", "red"), texts("blue", "red green"))
    assert (words[0].mark, words[0].firing, words[0].others) == ("“red”", 3, 1)
    assert {word.mark: (word.firing, word.others) for word in words}["“blue”"] == (1, 1)
    assert over_represented([], texts("red")) == over_represented(texts("red"), []) == []


def test_a_name_is_made_of_what_tells_the_sides_apart_and_tested_elsewhere() -> None:
    """Red or green where it fires; the held-out contexts keep to that but for one in ten."""
    firing = texts(*["red sky"] * 15, *["green sky"] * 15)
    others = texts(*["blue sky"] * 30)
    held_out = texts(*["red sky"] * 9, "blue sky"), texts(*["blue sky"] * 9, "green sky")
    name = rule_name((firing, held_out[0]), (others, held_out[1]), [])
    assert sorted(name.marks) == ["“green”", "“red”"]
    assert name.score is not None
    assert (name.score.firing_right, name.score.others_right) == (9, 9)
    assert name.score.beats_chance


def test_a_name_that_fails_on_held_out_contexts_does_not_beat_chance() -> None:
    """The prompts that made it were special."""
    name = rule_name(
        (texts(*["red"] * 20), texts(*["red"] * 10, *["blue"] * 10)),
        (texts(*["blue"] * 20), texts(*["red"] * 10, *["blue"] * 10)),
        [],
    )
    assert name.marks == ("“red”",)
    assert name.score is not None
    assert name.score.value == 0.5
    assert not name.score.beats_chance


def test_promoted_words_may_name_what_counts_alone_do_not() -> None:
    """Paris is rare in the contexts, but the direction promotes it."""
    firing, others = texts("paris", "paris", "rome", "oslo"), texts("rome", "oslo", "bern", "bonn")
    assert rule_name((firing, firing), (others, others), []).marks == ()
    assert rule_name((firing, firing), (others, others), ["“paris”"]).marks == ("“paris”",)


def test_nothing_stands_out_in_equal_contexts() -> None:
    """No marks, no score."""
    same = texts(*["red blue"] * 30)
    name = rule_name((same, same), (same, same), ["“red”"])
    assert (name.marks, name.score, name.text) == ((), None, "")
