"""The text of single tokens: together they are the text, whatever the tokenizer does at its edges."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sparserm_cli.models.token_text import decoded, printable, token_texts


def ids_of(tokenizer: Any, text: str) -> np.ndarray:
    """Tokenise without anything added."""
    return np.array(tokenizer(text, add_special_tokens=False)["input_ids"], np.uint32)


@pytest.fixture(scope="module")
def spaced() -> PreTrainedTokenizerFast:
    """Give a tokenizer that, like SentencePiece, drops the space at the start of a text."""
    inner = Tokenizer(models.WordLevel({"▁a": 0, "▁b": 1}))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=inner)


@settings(max_examples=60)
@given(text=st.text(max_size=40))
def test_all_texts_together_are_the_text(text: str, tiny_tokenizer: Any) -> None:
    """For any text, characters of several tokens included."""
    texts = token_texts(tiny_tokenizer, ids_of(tiny_tokenizer, text))
    assert "".join(texts) == text
    assert len(texts) == len(text.encode())


def test_the_last_token_of_a_character_has_it(tiny_tokenizer: Any) -> None:
    """é is two bytes, 🙂 four; the special token is one."""
    ids = ids_of(tiny_tokenizer, "é🙂<|im_end|>")
    assert token_texts(tiny_tokenizer, ids) == ["", "é", "", "", "", "🙂", "<|im_end|>"]


def test_cut_character_is_shown_as_such(tiny_tokenizer: Any) -> None:
    """Half an é at the end is what the tokenizer makes of it, and nothing before it is lost."""
    assert token_texts(tiny_tokenizer, ids_of(tiny_tokenizer, "né")[:-1]) == ["n", "\ufffd"]


def test_space_that_a_text_would_lose_at_its_start_is_kept(spaced: PreTrainedTokenizerFast) -> None:
    """With the token before it a word keeps its space."""
    words = np.array([0, 1], np.uint32)
    assert token_texts(spaced, words) == ["a", " b"]
    assert token_texts(spaced, words[1:]) == ["b"]
    assert token_texts(spaced, words[1:], before=words[:1]) == [" b"]


def test_control_characters_become_pictures() -> None:
    """An escape sequence or a turned reading direction is shown, not obeyed; lines and tabs stay."""
    assert printable("\x1b[31m\x00\x7f\n\t\x9b\u202e!") == "␛[31m␀␡\n\t␦␦!"


def test_decoded_text_is_printable(tiny_tokenizer: Any) -> None:
    """Whole texts are treated alike."""
    assert decoded(tiny_tokenizer, ids_of(tiny_tokenizer, "a\x1bé")) == "a␛é"
