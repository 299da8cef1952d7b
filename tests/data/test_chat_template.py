"""From text to token ids: the boundary, the one BOS, padding that is never asked, templates that are refused.

The tokenizer here is a byte-level BPE small enough to check by hand. `<s>` is 0, `</s>` is 1, and a byte's
id is 2 plus its place in the byte alphabet: "!" 2, "A" 34, ":" 27, space 222, newline 200. Its merges are
" P" 258, "ar" 259, "is" 260, " Par" 261, " Paris" 262, "?y" 263 and the last byte of "é" with "a" 264.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from sparserm_cli.data.chat_template import PromptTemplate
from sparserm_cli.data.example import Example, Message
from sparserm_cli.data.rendering.row_tokenizer import TokenizedResponse, tokenizer_digest
from sparserm_cli.errors import IncompatibleError, UsageError

MERGES = [("Ġ", "P"), ("a", "r"), ("i", "s"), ("ĠP", "ar"), ("ĠPar", "is"), ("?", "y"), ("©", "a")]
CHAT = (
    "{{ bos_token }}{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
SYSTEM_REFUSED = "{{ raise_exception('System role\nnot supported') if messages[0]['role'] == 'system' }}"


def tokenizer(
    *, adds_bos: bool = False, chat: str | None = CHAT, trim: bool = False, **options: Any
) -> PreTrainedTokenizerFast:
    """Return the tokenizer of this file's docstring; `adds_bos` puts `<s>` first as Llama's does."""
    tokens = [
        "<s>",
        "</s>",
        *sorted(pre_tokenizers.ByteLevel.alphabet()),
        *("".join(pair) for pair in MERGES),
    ]
    inner = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(tokens)}, merges=MERGES))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    if adds_bos:
        inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    if trim:
        inner.post_processor = processors.ByteLevel(trim_offsets=True)
    options = {"bos_token": "<s>", "eos_token": "</s>"} | options
    made = PreTrainedTokenizerFast(tokenizer_object=inner, **options)
    made.chat_template = chat
    return made


def token_ids(
    template: PromptTemplate, prompt: str | tuple[Message, ...], response: str
) -> TokenizedResponse:
    """Return one response as token ids."""
    return template.tokenize([Example(1, None, prompt, (response,), (0,), None, {})])[0].responses[0]


def ids(response: TokenizedResponse) -> tuple[list[int], list[int], bool]:
    """Return prompt ids, response ids and whether a token straddles."""
    return response.prompt_ids.tolist(), response.response_ids.tolist(), response.straddled


def test_row_25_boundary_without_a_straddling_token():
    """The space belongs to the response, and so does the token that begins with it."""
    assert ids(token_ids(PromptTemplate(tokenizer(), "raw"), "A:", " Paris")) == (
        [34, 27],
        [262],
        False,
    )


def test_row_25_straddling_token_goes_to_the_response_and_is_counted():
    """A prompt that ends in a space: `len(tokenize(prompt))` is 3, and the response would lose its token."""
    made = tokenizer()
    assert made("A: ")["input_ids"] == [34, 27, 222]
    assert ids(token_ids(PromptTemplate(made, "raw"), "A: ", "Paris")) == ([34, 27], [262], True)
    assert ids(token_ids(PromptTemplate(made, "raw"), "A?", "y")) == ([34], [263], True)


def test_row_25_trimmed_offsets_do_not_hide_a_straddling_token():
    """Many tokenizers leave the space out of a token's offsets; the boundary is found without them."""
    made = tokenizer(trim=True)
    assert made("A Paris", return_offsets_mapping=True)["offset_mapping"] == [(0, 1), (2, 7)]
    assert ids(token_ids(PromptTemplate(made, "raw"), "A: ", "Paris")) == ([34, 27], [262], True)


def test_row_25_characters_of_several_bytes():
    """Tokens that are parts of a character stay together; one that joins two characters straddles."""
    template = PromptTemplate(tokenizer(), "raw")
    lead, tail = 2 + 94 + 12 + (0xC3 - 174), 2 + 94 + (0xA9 - 161)
    assert ids(token_ids(template, "A", "é:")) == ([34], [lead, tail, 27], False)
    assert ids(token_ids(template, "é", ":")) == ([lead, tail], [27], False)
    assert ids(token_ids(template, "é", "a")) == ([lead], [264], True)
    tokens = token_ids(template, "A", "\U0001f642é")
    assert (len(tokens.response_ids), tokens.characters) == (6, 2)


texts = st.text(st.sampled_from(list("A: Paris?yéa\n\U0001f642日")), min_size=1, max_size=12)


def bytes_of(made: PreTrainedTokenizerFast, token_ids: np.ndarray) -> bytes:
    """Return the bytes that token ids stand for, whole characters or not."""
    byte_of = {letter: byte for byte, letter in bytes_to_letters().items()}
    return bytes(
        byte_of[letter] for token in made.convert_ids_to_tokens(token_ids.tolist()) for letter in token
    )


def bytes_to_letters() -> dict[int, str]:
    """Return GPT-2's byte alphabet: printable bytes stand for themselves, the others come after 255."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


@settings(max_examples=300, deadline=None)
@given(texts, texts)
def test_row_25_any_boundary(prompt: str, response: str):
    """Prompt and response ids are those of the whole text, and the response begins where its bytes do."""
    made = tokenizer()
    tokens = token_ids(PromptTemplate(made, "raw"), prompt, response)
    whole = made(prompt + response)["input_ids"]
    assert [*tokens.prompt_ids, *tokens.response_ids] == whole
    tail = bytes_of(made, tokens.response_ids)
    assert tail.endswith(response.encode())
    assert tokens.straddled == (tail != response.encode())
    # The straddling token reaches back by less than itself: without it, bytes of the response are missing.
    assert not bytes_of(made, tokens.response_ids[1:]).endswith(response.encode())
    assert bytes_of(made, tokens.prompt_ids) + tail == (prompt + response).encode()


@pytest.mark.parametrize("options", [{}, {"pad_token": "</s>"}, {"pad_token": "<s>"}, {"pad_token": "A"}])
@pytest.mark.parametrize("side", ["left", "right"])
def test_row_26_row_27_padding_is_never_consulted(options: dict[str, Any], side: str):
    """No pad token, pad = eos, pad = bos, a pad that is text, either side, padding left on: the same ids."""
    made = tokenizer(padding_side=side, **options)
    made.backend_tokenizer.enable_padding(direction=side, pad_id=1, length=64)
    made.backend_tokenizer.enable_truncation(3)
    template = PromptTemplate(made, "raw")
    rows = [
        Example(1, None, "A:", (" Paris</s>", "a"), (0, 0), None, {}),
        Example(2, None, "A", ("A",), (0,), None, {}),
    ]
    ids_of_rows = [ids(response) for example in template.tokenize(rows) for response in example.responses]
    assert ids_of_rows == [([34, 27], [262, 1], False), ([34, 27], [66], False), ([34], [34], False)]
    assert made.backend_tokenizer.padding["length"] == 64  # the caller's tokenizer is left as it was


@pytest.mark.parametrize("adds_bos", [True, False])
def test_row_28_exactly_one_bos_with_a_chat_template_that_writes_it(adds_bos: bool):
    """The template's own BOS counts; a tokenizer that adds one adds none here. Golden ids."""
    tokens = token_ids(PromptTemplate(tokenizer(adds_bos=adds_bos)), "A", "A:")
    # <s> < u s e r > A < a s s is t a n t >, then A :
    prompt = [0, 29, 86, 84, 70, 83, 31, 34, 29, 66, 84, 84, 260, 85, 66, 79, 85, 31]
    assert ids(tokens) == (prompt, [34, 27], False)


def test_row_28_exactly_one_bos_without_a_template():
    """Added if the tokenizer adds one, not if it does not; never doubled, never taken from a response."""
    added, none = PromptTemplate(tokenizer(adds_bos=True), "raw"), PromptTemplate(tokenizer(), "raw")
    assert ids(token_ids(added, "A:", "A")) == ([0, 34, 27], [34], False)
    assert ids(token_ids(none, "A:", "A")) == ([34, 27], [34], False)
    assert ids(token_ids(added, "<s>A:", "A")) == ([0, 34, 27], [34], False)
    assert ids(token_ids(none, "<s><s><s>A:", "<s>A")) == ([0, 34, 27], [0, 34], False)
    assert ids(token_ids(PromptTemplate(tokenizer(bos_token=None), "raw"), "A:", "A")) == (
        [34, 27],
        [34],
        False,
    )


def test_row_28_bos_of_a_wholly_straddled_prompt():
    """If the first token reaches into the response, the BOS is still there and the prompt is it alone."""
    assert ids(token_ids(PromptTemplate(tokenizer(adds_bos=True), "raw"), " ", "Paris")) == (
        [0],
        [262],
        True,
    )


def test_row_29_missing_chat_template_names_the_model():
    """And says what to use instead."""
    with pytest.raises(IncompatibleError) as caught:
        PromptTemplate(tokenizer(chat=None), model="acme/base")
    assert str(caught.value) == (
        "model acme/base: expected a chat template, found none; "
        "use --template raw, or --template FILE with a Jinja chat template"
    )
    PromptTemplate(tokenizer(chat=None), "raw")


def test_row_29_template_that_refuses_the_system_role():
    """The template's own words in one line, with the turns it was given."""
    template = PromptTemplate(tokenizer(chat=SYSTEM_REFUSED + CHAT), model="acme/chat")
    assert template.render("A") == "<s><user>A<assistant>"
    with pytest.raises(IncompatibleError) as caught:
        template.render((Message("system", "x"), Message("user", "y")))
    assert caught.value.exit_code == 4
    assert str(caught.value) == (
        "model acme/chat: expected a chat template for these turns, found System role not supported "
        "(turns: system, user); use --template raw or --template FILE"
    )


@pytest.mark.parametrize(
    "broken", ["{% for %}", "{{ messages.x.y }}", "{{ 1 + 'a' }}", "{{ ''.__class__.__mro__ }}{{ x.y }}"]
)
def test_row_29_broken_templates_are_one_line(tmp_path: Path, broken: str):
    """Syntax errors, undefined names, type errors and what the sandbox forbids."""
    path = tmp_path / "chat.jinja"
    path.write_text(broken)
    template = PromptTemplate(tokenizer(), str(path), model="acme/chat")
    with pytest.raises(IncompatibleError) as caught:
        template.render("A")
    assert str(caught.value).startswith("model acme/chat: expected a chat template for these turns, found ")
    assert "\n" not in str(caught.value)


def test_row_29_template_files_that_cannot_be_read(tmp_path: Path):
    """A wrong option, so exit 2."""
    with pytest.raises(UsageError) as caught:
        PromptTemplate(tokenizer(), str(tmp_path / "no.jinja"))
    assert str(caught.value) == (
        f"--template {tmp_path / 'no.jinja'}: expected raw or a Jinja file, found no such file or directory; "
        "give the path of a file"
    )
    (tmp_path / "bad.jinja").write_bytes(b"\xff")
    with pytest.raises(UsageError, match="found not utf-8"):
        PromptTemplate(tokenizer(), str(tmp_path / "bad.jinja"))


def test_template_file_and_stored_text_stand_for_the_models_own(tmp_path: Path):
    """A file wins over the model's template, and an artifact may keep its text instead of the file."""
    path = tmp_path / "chat.jinja"
    path.write_text("Q {{ messages[-1]['content'] }}\nA")
    from_file = PromptTemplate(tokenizer(), str(path))
    stored = PromptTemplate(tokenizer(), text=from_file.text)
    assert from_file.render("x") == stored.render("x") == "Q x\nA"
    assert from_file.digest == stored.digest
    own, raw = PromptTemplate(tokenizer()), PromptTemplate(tokenizer(chat=None), "raw")
    assert len({from_file.digest, own.digest, raw.digest}) == 3
    # printf raw | sha256sum
    assert raw.digest == "d7439bee24773bcbfa2d0a97947ee36227b10d1022b1a55847e928965bb6bfde"


def test_templates_get_the_whole_conversation():
    """System turn and earlier turns come first; a plain string is one user turn."""
    turns = (Message("system", "s"), Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    template = PromptTemplate(tokenizer())
    assert template.render(turns) == "<s><system>s<user>a<assistant>b<user>c<assistant>"
    assert template.render("c") == template.render((Message("user", "c"),)) == "<s><user>c<assistant>"


def test_raw_conversations_read_as_transcripts():
    """Without a template a string is taken as it is, messages as HH-RLHF writes them."""
    template = PromptTemplate(tokenizer(chat=None), "raw")
    turns = (Message("system", "s"), Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    assert template.render("A:") == "A:"
    assert template.render(turns) == "\n\nSystem: s\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: "
    assert ids(token_ids(template, turns, "Paris"))[1:] == ([262], True)


def test_template_that_prints_todays_date_prints_a_fixed_one():
    """Otherwise the same text would have other token ids tomorrow; leading white space stays."""
    date = "{% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}{% endif %}"
    chat = f"\n{date}|{{{{ messages[0].content }}}}"
    assert PromptTemplate(tokenizer(chat=chat)).render("x") == "\n26 Jul 2024|x"


def test_several_examples_and_responses_keep_their_order():
    """One call for all; each response has the prompt ids that its own boundary gives."""
    rows = [
        Example(1, None, "A: ", ("Paris", "A"), (1, -1), None, {}),
        Example(2, None, "A", ("?",), (0,), None, {}),
    ]
    tokenized = PromptTemplate(tokenizer(), "raw").tokenize(rows)
    assert [item.example for item in tokenized] == rows
    assert [item.prompt_text for item in tokenized] == ["A: ", "A"]
    assert [ids(response) for item in tokenized for response in item.responses] == [
        ([34, 27], [262], True), ([34, 27, 222], [34], False), ([34], [32], False),
    ]  # fmt: skip
    assert [response.characters for item in tokenized for response in item.responses] == [5, 1, 1]
    assert PromptTemplate(tokenizer(), "raw").tokenize([]) == []


def test_truncate_left_keeps_the_bos_and_the_response():
    """The oldest prompt tokens go; what fits is returned as it is."""
    template = PromptTemplate(tokenizer(adds_bos=True), "raw")
    tokens = token_ids(template, "ABCDEF", "GH")
    assert ids(tokens)[0] == [0, 34, 35, 36, 37, 38, 39]
    assert template.rows.truncate_left(tokens, 9) is tokens
    cut = template.rows.truncate_left(tokens, 5)
    assert (cut.prompt_ids.tolist(), cut.response_ids.tolist(), cut.truncated) == (
        [0, 38, 39],
        [40, 41],
        True,
    )
    assert template.rows.truncate_left(tokens, 3).prompt_ids.tolist() == [0]
    without = PromptTemplate(tokenizer(), "raw")
    assert without.rows.truncate_left(token_ids(without, "ABCDEF", "GH"), 3).prompt_ids.tolist() == [39]
    with pytest.raises(ValueError, match="a response of 2 tokens"):
        template.rows.truncate_left(tokens, 2)


def test_row_30_tokenizer_digest_sees_what_changes_ids():
    """Vocabulary, merges, normaliser, BOS and special tokens; not the padding of the last call."""
    base = tokenizer_digest(tokenizer())
    padded = tokenizer()
    padded.backend_tokenizer.enable_padding(length=8)
    padded.backend_tokenizer.enable_truncation(8)
    assert tokenizer_digest(padded) == base == tokenizer_digest(tokenizer(chat=None))
    bos, special, grown = tokenizer(adds_bos=True), tokenizer(), tokenizer()
    special.add_special_tokens({"eos_token": "A"})
    grown.add_tokens(["new"])
    assert len({base, *(tokenizer_digest(made) for made in (bos, special, grown))}) == 4


def test_slow_tokenizers_are_refused():
    """Offsets come from fast tokenizers only."""

    class Slow:
        name_or_path = "acme/slow"
        chat_template = CHAT

    with pytest.raises(IncompatibleError) as caught:
        PromptTemplate(Slow(), "raw")
    assert str(caught.value) == (
        "model acme/slow: expected a fast tokenizer (tokenizer.json), found Slow; "
        "convert it with transformers"
    )
