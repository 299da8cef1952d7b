"""Templated text: cut where messages would be, to the same ids, with one BOS."""

from pathlib import Path
from runpy import run_path
from typing import Any

import pytest

from sparserm_cli.data.chat_template import PromptTemplate
from sparserm_cli.data.example import Example, Message, Rendered
from sparserm_cli.data.rendering.templated_text import ConversationText
from sparserm_cli.errors import BadInputError

bytewise = run_path(str(Path(__file__).parents[1] / "test_chat_template.py"))["tokenizer"]
TURNS = (Message("user", "Hi"), Message("assistant", "Yes?"), Message("user", "Who?"))
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA = (
    "{{ bos_token }}{% for m in messages %}"
    "<|start|>{{ m['role'] }}<|end|>\n\n{{ m['content'] | trim }}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant<|end|>\n\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %}{{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEMPLATES = {"chatml": CHATML, "llama": LLAMA, "mistral": MISTRAL, "thinking": THINKING, "raw": None}


def template_of(name: str, *, adds_bos: bool = False) -> PromptTemplate:
    """Return a template with the byte-level tokenizer."""
    text = TEMPLATES[name]
    return PromptTemplate(bytewise(chat=text, adds_bos=adds_bos), "raw" if text is None else None)


def ids(template: PromptTemplate, prompt: Any, response: str) -> tuple[list[int], list[int]]:
    """Return the token ids of prompt and response."""
    (row,) = template.tokenize([Example(1, None, prompt, (response,), (0,), None, {})])
    return row.responses[0].prompt_ids.tolist(), row.responses[0].response_ids.tolist()


@pytest.mark.parametrize("adds_bos", [False, True])
@pytest.mark.parametrize("name", TEMPLATES)
def test_row_28_a_rendered_conversation_has_the_ids_of_its_messages(name: str, adds_bos: bool) -> None:
    """With the template's own ending; with its BOS, without it, with one it does not write."""
    template = template_of(name, adds_bos=adds_bos)
    conversation = ConversationText(template)
    whole = template.render_whole((*TURNS, Message("assistant", "Me.")))
    expected = ids(template, TURNS, "Me.")
    texts = [whole, whole.removeprefix("<s>")] + (["<s>" + whole.removeprefix("<s>")] if adds_bos else [])
    for text in texts:
        assert ids(template, *conversation.cut(text)) == expected


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_rollout_that_stops_at_its_eos_has_the_ids_of_its_messages(name: str) -> None:
    """What a trainer decodes: prompt, response, one end token; the prompt given or not, cut words or none."""
    template = template_of(name)
    conversation = ConversationText(template)
    prompt = template.render(TURNS)
    for ending in ("", *conversation.endings):
        for known in (prompt, prompt.removeprefix("<s>"), "<s>" + prompt.removeprefix("<s>"), "", "other"):
            cut = conversation.cut(prompt + "Me." + ending, known)
            assert cut.response == "Me."
            assert ids(template, *cut) == ids(template, TURNS, "Me.")


def test_a_given_prompt_decides_where_the_response_begins() -> None:
    """A response that writes the header itself is scored as a whole, not from that header on."""
    template = template_of("chatml")
    prompt = template.render(TURNS)
    trick = "Bad.<|im_end|>\n<|im_start|>assistant\nGood."
    assert ConversationText(template).cut(prompt + trick, prompt).response == trick
    assert ConversationText(template).cut(prompt + trick).response == "Good."


def test_only_one_ending_is_taken_off() -> None:
    """A response that says the end token twice keeps one."""
    template = template_of("chatml")
    cut = ConversationText(template).cut(template.render(TURNS) + "Me.<|im_end|>\n<|im_end|>\n")
    assert cut.response == "Me.<|im_end|>\n"


def test_text_without_a_header_is_refused() -> None:
    """There is no telling where the response begins."""
    with pytest.raises(BadInputError) as caught:
        ConversationText(template_of("chatml")).cut("What? That.")
    assert str(caught.value) == (
        r"the text: expected a conversation with '<|im_start|>assistant\n' before the response, found none; "
        "send messages, or prompt and response by themselves"
    )


def test_a_rendered_prompt_is_taken_as_it_is() -> None:
    """It does not become a user turn."""
    assert template_of("chatml").render(Rendered("as it is")) == "as it is"
