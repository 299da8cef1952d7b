"""The words of a report: what is shown of a response and of its prompt, and what all prompts share."""

from typing import Any

import numpy as np
import pytest
from helpers import planted_run as planted
from hypothesis import given
from hypothesis import strategies as st

from sparserm_cli.analysis.contexts import Context
from sparserm_cli.analysis.report.content.texts import Words, _beginning, _frame
from sparserm_cli.data.splits import group_key
from sparserm_cli.store.capture.artifact import capture_path
from sparserm_cli.store.capture.plan_writer import PlanWriter
from sparserm_cli.store.capture.reader import ActivationsReader

PROMPTS = ("<|im_start|>user\nWhy is it?<|im_end|>\n", "<|im_start|>user\nWhere is it?<|im_end|>\n")
RESPONSE = "Because é \x1b[31m<b>" + "." * 70


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> Words:
    """Give the words of two prompts with a response each; nothing is computed for them."""
    run = tmp_path_factory.mktemp("words")
    with PlanWriter(capture_path(run), planted.settings((3,), 400)) as writer:
        for text in PROMPTS:
            ids = [
                np.array(tiny_tokenizer(part, add_special_tokens=False)["input_ids"], np.uint32)
                for part in (text, RESPONSE)
            ]
            writer.add(*ids, group=group_key(text), characters=len(RESPONSE))
        writer.add_pair(0, 1, 1)
        writer.freeze({"read": 1, "accepted": 1, "rejected": 0})
    return Words(ActivationsReader(capture_path(run), allow_partial=True), tiny_tokenizer, [0, 1])


def test_prompts_are_shown_without_what_they_share(words: Words) -> None:
    """The frame is whole lines and special tokens; words in common stay."""
    assert words.frame == ("<|im_start|>user\n", "<|im_end|>\n")
    assert [words.prompt(number) for number in (0, 1)] == ["Why is it?", "Where is it?"]
    assert words.prompt(1, most=1) == "… it?"


def test_long_responses_are_cut_and_control_characters_shown(words: Words) -> None:
    """Tokens are bytes here."""
    assert words.response(0, 20) == "Because é ␛[31m<b>.…"
    assert words.response(0, 1000).endswith("." * 70)


def test_a_stretch_has_a_text_and_a_strength_for_each_token(words: Words) -> None:
    """The é is two tokens; the second has its text, the strengths are relative."""
    stretch = words.stretch(Context(0, 9, 2.0, 7, (0.0, 1.0, 2.0, 0.0), (0, 0, 0, 0), last=False), 4.0)
    assert [token.text for token in stretch.tokens] == [" ", "", "é", " "]
    assert [token.strength for token in stretch.tokens] == [0.0, 0.25, 0.5, 0.0]
    assert [token.peak for token in stretch.tokens] == [False, False, True, False]
    assert (stretch.before, stretch.after, stretch.prompt) == (True, True, "Why is it?")


def test_gaps_are_passed_over(words: Words) -> None:
    """A number below 0 stands for no response."""
    excerpts = words.excerpts(np.array([1, -1]), np.array([2.5, -np.inf]))
    assert [(excerpt.prompt, excerpt.value) for excerpt in excerpts] == [("Where is it?", 2.5)]
    assert excerpts[0].text == words.response(1, 48)


@given(st.lists(st.text("ab\n", max_size=9), min_size=1, max_size=4))
def test_the_frame_is_in_every_prompt(prompts: list[str]) -> None:
    """Whatever they are, cutting it off loses nothing else, and it ends and begins with whole lines."""
    start, end = _frame(set(prompts), ["<s>"])
    for prompt in prompts:
        assert prompt.startswith(start)
        assert prompt.endswith(end)
        assert len(start) + len(end) <= len(prompt)
    assert start == "" or start.endswith("\n")
    assert end == "" or end.startswith("\n")


def test_one_prompt_alone_has_no_frame() -> None:
    """It would be all frame."""
    assert _frame({"<s>only\n"}, ["<s>"]) == ("", "")


@pytest.mark.parametrize(
    ("first", "last", "shared"), [("abc", "abd", "ab"), ("", "a", ""), ("ab", "abc", "ab")]
)
def test_beginning_of_two_texts(first: str, last: str, shared: str) -> None:
    """By hand."""
    assert _beginning(first, last) == shared


def test_special_tokens_end_a_frame() -> None:
    """A template without line breaks."""
    assert _frame({"<s>[I]a b[/I]", "<s>[I]a c[/I]"}, ["<s>", "[I]", "[/I]"]) == ("<s>[I]", "[/I]")
