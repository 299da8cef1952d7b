"""Render the conversations of examples as the text that the model sees, with its chat template.

The prompt is rendered with the chat template, and the response follows word for word. How the whole text
becomes token ids is in `rendering/row_tokenizer.py`.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sparserm_cli.data.example import Example, Message, Rendered
from sparserm_cli.data.messages import MEANT
from sparserm_cli.data.rendering.renderer import RENDERER, RenderError, RenderRequest
from sparserm_cli.data.rendering.row_tokenizer import RenderedExample, RowTokenizer, TokenizedExample
from sparserm_cli.errors import IncompatibleError, UsageError
from sparserm_cli.files import refuse_pipes

RAW = "raw"
# A template that prints today's date would give different tokens tomorrow, so the date is fixed.
_FIXED_DATE = "{% macro strftime_now(format) %}26 Jul 2024{% endmacro +%}"
_HH_ROLES = {"user": "Human", "assistant": "Assistant"}


class PromptTemplate:
    """Renders prompts and tokenises them with their responses.

    Args:
        tokenizer: a transformers fast tokenizer; it is not changed.
        template: None for the model's own chat template, "raw" for no template, or the path of a Jinja file.
        model: name of the model, for error messages.
        text: Jinja text that stands for the file, as an artifact made with one keeps it.

    Raises:
        IncompatibleError: the model has no chat template, or its tokenizer is not a fast one.
        UsageError: the Jinja file cannot be read.

    """

    def __init__(
        self, tokenizer: Any, template: str | None = None, *, model: str = "", text: str | None = None
    ) -> None:
        self._tokenizer = tokenizer
        self._model = f"model {model or tokenizer.name_or_path or 'without a name'}"
        self.text = text if text is not None else _template_text(tokenizer, template, self._model)
        """The Jinja text in use; None for no template."""
        self.digest = hashlib.sha256((RAW if self.text is None else self.text).encode()).hexdigest()
        """sha256 of the text, or of "raw"."""
        self.rows = RowTokenizer(tokenizer, self._model)
        """The tokenizer of rendered examples."""
        self._special_tokens = {
            name: list(map(str, token)) if isinstance(token, list | tuple) else str(token)
            for name, token in tokenizer.special_tokens_map.items()
        }
        self._jinja = self.jinja
        if self._jinja is not None:
            RENDERER.start()  # the worker then starts while the model loads

    @property
    def bos(self) -> str:
        """The token with which texts begin; "" if the model has none."""
        return str(self._tokenizer.bos_token or "")

    def is_marked(self, text: str) -> bool:
        """Whether a text contains a control token, so that it is not plain words."""
        return any(token in text for token in self._tokenizer.get_added_vocab())

    @property
    def eos(self) -> str:
        """The token that ends a response; "" if the model has none."""
        return str(self._tokenizer.eos_token or "")

    def render(self, prompt: tuple[Message, ...] | str, tools: str = "") -> str:
        """Return the prompt as the model sees it, up to where the response begins.

        If a prompt ends with an assistant's turn, the response is the rest of that turn.

        Args:
            prompt: the conversation; a string is a single user turn.
            tools: the tools that the prompt offers, as JSON text; empty if it offers none.

        Raises:
            IncompatibleError: the template refuses the conversation (some templates refuse a system turn).

        """
        if isinstance(prompt, Rendered):
            return str(prompt)
        turns = (Message("user", prompt),) if isinstance(prompt, str) else prompt
        if self.text is None:
            self._check_extras(turns, tools)
            return prompt if isinstance(prompt, str) else raw_transcript(prompt)
        if tools or any(turn.extras for turn in turns):
            self._check_extras(turns, tools)
        return self._apply(turns, to_be_continued=True, tools=tools)

    def render_whole(self, turns: tuple[Message, ...]) -> str:
        """Return a conversation as the model sees it, with its last turn finished.

        Raises:
            IncompatibleError: the template refuses the conversation.

        """
        if self.text is None:
            return raw_transcript(turns, to_be_continued=False)
        return self._apply(turns, to_be_continued=False)

    @property
    def jinja(self) -> str | None:
        """The Jinja text that is rendered, with a fixed date; None if there is no template."""
        fixed = self.text is not None and "strftime_now" in self.text
        return f"{_FIXED_DATE}{self.text}" if fixed else self.text

    def _apply(self, turns: tuple[Message, ...], *, to_be_continued: bool, tools: str = "") -> str:
        """Render turns, with or without the header of a response after them."""
        if self._jinja is None:
            raise ValueError("there is no template to apply")
        prefilled = to_be_continued and bool(turns) and turns[-1].role == "assistant"
        request = RenderRequest(
            self._jinja,
            [turn.plain() for turn in turns],
            self._special_tokens,
            tools=json.loads(tools) if tools else None,
            add_generation_prompt=to_be_continued and not prefilled,
            continue_final_message=prefilled,
        )
        try:
            return RENDERER.render(request)
        except RenderError as error:
            roles = ", ".join(turn.role for turn in turns)
            found = f"{' '.join(str(error).split())} (turns: {roles})"
            raise IncompatibleError(
                self._model, "a chat template for these turns", found, "use --template raw or --template FILE"
            ) from None

    def rendered(self, example: Example) -> RenderedExample:
        """Return an example as text: the text before the responses, and each response.

        A response of words alone is taken word for word. One that calls tools or shows its reasoning is what
        the template makes of it.

        Raises:
            IncompatibleError: the template refuses the conversation, or leaves out a part of it.

        """
        prompt = self.render(example.prompt, example.tools)
        responses = [
            self._turn_text(example, place, prompt) if example.turns and example.turns[place] else words
            for place, words in enumerate(example.responses)
        ]
        return RenderedExample(example, prompt, tuple(responses))

    def _turn_text(self, example: Example, place: int, prompt: str) -> str:
        """Return a response that is more than words, as the template writes it."""
        before = example.prompt
        turns = (Message("user", before),) if isinstance(before, str) else before
        turn = example.message(place)
        self._check_extras((), "", turn)
        whole = self._apply((*turns, turn), to_be_continued=False, tools=example.tools)
        for key in json.loads(turn.extras).keys() & set(MEANT):
            less = turn._replace(extras=_without(turn.extras, key))
            if whole == self._apply((*turns, less), to_be_continued=False, tools=example.tools):
                raise self._unrendered(f"{key} of a response")
        if not whole.startswith(prompt):
            raise self._unrendered("a response that begins where the prompt ends")
        end = self._turn_end()
        return whole.removeprefix(prompt).removesuffix(end)

    def _turn_end(self) -> str:
        """Return what the template writes after the words of a finished turn."""
        words = "Everywhere!"
        whole = self._apply((Message("user", "Where?"), Message("assistant", words)), to_be_continued=False)
        return whole.rpartition(words)[2]

    def _check_extras(self, turns: tuple[Message, ...], tools: str, *more: Message) -> None:
        """Refuse content that the template leaves out, because that would change the conversation."""
        keys = {key: None for turn in (*turns, *more) if turn.extras for key in json.loads(turn.extras)}
        for key in (*(["tools"] if tools else []), *(key for key in keys if key in MEANT)):
            if self.text is None or key not in self.text:
                raise self._unrendered(key)

    def _unrendered(self, what: str) -> IncompatibleError:
        """Return the error that names what the template leaves out."""
        found = "no template" if self.text is None else "one that leaves it out"
        hint = "use --template FILE with one that does, or leave these rows out with --on-bad-row reject"
        return IncompatibleError(self._model, f"a chat template that renders {what}", found, hint)

    def tokenize(self, examples: Sequence[Example]) -> list[TokenizedExample]:
        """Render examples and tokenise all of them with one call of the tokenizer; see `rendered`."""
        return self.rows.tokenize([self.rendered(example) for example in examples])


def _template_text(tokenizer: Any, template: str | None, model: str) -> str | None:
    """Return the Jinja text in use; None for no template."""
    if template == RAW:
        return None
    if template is not None:
        refuse_pipes([Path(template)], UsageError)
        try:
            return Path(template).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror or "unreadable" if isinstance(error, OSError) else "not UTF-8"
            raise UsageError(
                f"--template {template}", "raw or a Jinja file", why.lower(), "give the path of a file"
            ) from None
    try:
        return str(tokenizer.get_chat_template())
    except ValueError:
        raise IncompatibleError(
            model,
            "a chat template",
            "none",
            "use --template raw, or --template FILE with a Jinja chat template",
        ) from None


def _without(extras: str, key: str) -> str:
    """Return the extras of a message less one key."""
    rest = {name: value for name, value in json.loads(extras).items() if name != key}
    return json.dumps(rest) if rest else ""


def raw_transcript(turns: Iterable[Message], *, to_be_continued: bool = True) -> str:
    r"""Return messages as an HH-RLHF transcript, ending with `\n\nAssistant: ` if it is to be continued."""
    turns = tuple(turns)
    said = (f"\n\n{_HH_ROLES.get(turn.role, turn.role.capitalize())}: {turn.content}" for turn in turns)
    prefilled = bool(turns) and turns[-1].role == "assistant"
    return "".join((*said, "\n\nAssistant: " if to_be_continued and not prefilled else ""))
