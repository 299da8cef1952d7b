"""The texts that a report shows: stretches of responses, whole responses and prompts, from their token ids.

Every text is made printable here and escaped by the page. Memory: the token ids of the responses shown.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from sparserm_cli.analysis.contexts import Context
from sparserm_cli.models.token_text import LEAD, decoded, printable, token_texts
from sparserm_cli.store.capture.reader import ActivationsReader
from sparserm_cli.store.capture.token_ids import ids_of

ELLIPSIS = "…"
_EXCERPT_TOKENS, _PROMPT_TOKENS = 48, 400
_FEWEST = 2  # prompts that have something in common


class Token(NamedTuple):
    """One token of a stretch.

    Fields:
        text: of the token.
        strength: of the latent, from 0 to 1 where it is as strong as anywhere.
        peak: whether it is the strongest of the response.
    """

    text: str
    strength: float
    peak: bool


class Stretch(NamedTuple):
    """A context with its text.

    Fields:
        tokens: those shown.
        before: whether the response has more before them.
        after: whether it has more after them.
        prompt: what the response answers.
        value: of the latent at the peak.
    """

    tokens: tuple[Token, ...]
    before: bool
    after: bool
    prompt: str
    value: float


class Excerpt(NamedTuple):
    """The beginning of a response.

    Fields:
        text: of it.
        prompt: what it answers.
        value: of the projection.
    """

    text: str
    prompt: str
    value: float


class Words:
    """The texts of some responses of a capture.

    Args:
        capture: whose responses they are.
        tokenizer: that of the capture.
        responses: numbers of those that will be asked for.

    Attributes:
        frame: what the chat template puts before and after each of their prompts, which is not repeated.

    """

    def __init__(self, capture: ActivationsReader, tokenizer: Any, responses: Iterable[int]) -> None:
        self._tokenizer = tokenizer
        self._ids = ids_of(capture, responses)
        self._prompt_of = capture.rows.response_prompt
        self._prompts = {
            int(self._prompt_of[number]): decoded(tokenizer, ids.prompt) for number, ids in self._ids.items()
        }
        self.frame = _frame(set(self._prompts.values()), tokenizer.all_special_tokens)

    def prompt(self, number: int, most: int = _PROMPT_TOKENS) -> str:
        """Return the prompt of a response without the frame; of a long one the end."""
        text = self._prompts[int(self._prompt_of[number])]
        inner = text[len(self.frame[0]) : len(text) - len(self.frame[1])].strip()
        # Four characters a token is the usual rate; a prompt's last words matter most.
        return inner if len(inner) <= 4 * most else ELLIPSIS + inner[-4 * most :]

    def response(self, number: int, most: int) -> str:
        """Return the first `most` tokens of a response as text."""
        ids = self._ids[number].response
        text = decoded(self._tokenizer, ids[:most])
        return text + ELLIPSIS if len(ids) > most else text

    def token_texts(self, number: int, most: int) -> list[str]:
        """Return the texts of the first `most` tokens of a response."""
        ids = self._ids[number]
        return token_texts(self._tokenizer, ids.response[:most], ids.prompt)

    def stretch(self, context: Context, strongest: float) -> Stretch:
        """Return a context with its text; `strongest` is the value that is shown as 1."""
        ids = self._ids[context.response].response
        shown = slice(context.start, context.start + len(context.values))
        before = ids[max(0, context.start - LEAD) : context.start]
        texts = token_texts(self._tokenizer, ids[shown], before)
        tokens = (
            Token(printable(text), min(1.0, value / strongest), context.start + place == context.peak)
            for place, (text, value) in enumerate(zip(texts, context.values, strict=True))
        )
        prompt, more = self.prompt(context.response), shown.stop < len(ids)
        return Stretch(tuple(tokens), context.start > 0, more, prompt, context.value)

    def excerpts(
        self, numbers: Int64[np.ndarray, " top"], values: Float64[np.ndarray, " top"]
    ) -> tuple[Excerpt, ...]:
        """Return the responses at one end of a direction; numbers below 0 are gaps."""
        return tuple(
            Excerpt(self.response(int(number), _EXCERPT_TOKENS), self.prompt(int(number)), float(value))
            for number, value in zip(numbers, values, strict=True)
            if number >= 0
        )


def _frame(prompts: set[str], special: list[str]) -> tuple[str, str]:
    """Return what all prompts begin and end with, as far as it is whole lines or special tokens."""
    if len(prompts) < _FEWEST:
        return "", ""
    start = _beginning(min(prompts), max(prompts))
    turned = {prompt[::-1] for prompt in prompts}
    end = _beginning(min(turned), max(turned))[::-1]
    marks = ["\n", *special]
    kept = max((start.rfind(mark) + len(mark) for mark in marks if mark in start), default=0)
    begun = min((end.find(mark) for mark in marks if mark in end), default=len(end))
    shortest = min(map(len, prompts))
    return (start[:kept], end[begun:]) if kept + len(end) - begun <= shortest else ("", "")


def _beginning(first: str, last: str) -> str:
    """Return what two texts begin with; for the first and the last of sorted texts it is that of all."""
    pairs = enumerate(zip(first, last, strict=False))
    return first[: next((place for place, (a, b) in pairs if a != b), min(len(first), len(last)))]
