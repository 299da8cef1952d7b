"""The interface of scorers, which give each response of a policy a reward or a reason why it has none.

A policy writes all kinds of things. What cannot be scored (nothing, too much, no text, or what the reward
model abstains from) has None for a score, with the reason; it never stops a training run.
"""

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from sparserm_cli.data.example import Message, RowError
from sparserm_cli.data.messages import normalise_messages, normalise_prompt, plain_text, response_of
from sparserm_cli.errors import BadInputError, UsageError
from sparserm_cli.http_client import PATIENCE

AT_A_TIME = 64
"""Most responses in one request or one computation."""

Conversation = tuple[tuple[Message, ...] | str, str]
"""A prompt, as messages or as the words of one user turn, and a response."""
_LOG = logging.getLogger("sparserm")


class Judged(NamedTuple):
    """The result of one response.

    Fields:
        score: its reward; None if there is none.
        ood: its distance from the training responses, 99 % of which are below 1; None if it was not scored.
        tokens: the rewards of its tokens, which add up to the score, if they were requested.
        reason: why it could not be scored; empty if it was scored or if the reward model abstains.
    """

    score: float | None = None
    ood: float | None = None
    tokens: list[float] | None = None
    reason: str = ""


class Scorer(ABC):
    """Scores the responses of a policy."""

    def judge(
        self, prompts: Sequence[Any], completions: Sequence[Any], *, by_token: bool = False
    ) -> list[Judged]:
        """Score completions of prompts.

        Args:
            prompts: texts, each one user turn, or conversations that `normalise_messages` can read.
            completions: texts, or conversations whose last turn, the assistant's, is scored; the turns before
                it belong to the prompt.
            by_token: whether to return the rewards of tokens as well.

        Raises:
            UsageError: one of them is a text alone, which would be scored letter by letter.
            ValueError: the numbers of prompts and completions differ.

        """
        pairs = _zipped(prompts=prompts, completions=completions)
        return _judge(pairs, _conversation, self._score, by_token)

    def judge_texts(
        self, texts: Sequence[Any], prompts: Sequence[Any], *, by_token: bool = False
    ) -> list[Judged]:
        """Score already templated conversations; `prompts` holds their beginnings, or "".

        Raises:
            UsageError: one of them is a text alone, which would be scored letter by letter.
            ValueError: the numbers of prompts and texts differ.

        """
        pairs = _zipped(texts=texts, prompts=prompts)
        return _judge(pairs, _texts, self._score_texts, by_token)

    @abstractmethod
    def _score(self, pairs: Sequence[Conversation], by_token: bool, until: float) -> list[Judged]:
        """Score prompts and responses until a time of `time.monotonic`.

        Raises:
            BadInputError: one of them cannot be scored.

        """

    @abstractmethod
    def _score_texts(self, pairs: Sequence[tuple[str, str]], by_token: bool, until: float) -> list[Judged]:
        """Score texts and prompts in the same way."""


def _zipped(**lists: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Return the rows of two lists; raise UsageError for a text and ValueError for unequal lengths."""
    for name, values in lists.items():
        if isinstance(values, str):
            raise UsageError(name, "a list", "one text", "put it into a list")
    return list(zip(*lists.values(), strict=True))


def _judge(
    pairs: Sequence[tuple[Any, Any]],
    read: Callable[[Any, Any], Any],
    score: Callable[[Sequence[Any], bool, float], list[Judged]],
    by_token: bool,
) -> list[Judged]:
    """Score all pairs that can be read, and log the number of the others once."""
    results = [_read_or_reason(read, *pair) for pair in pairs]
    good = [place for place, result in enumerate(results) if not isinstance(result, Judged)]
    until = time.monotonic() + PATIENCE
    scored = _salvaged(lambda part: score(part, by_token, until), [results[place] for place in good])
    for place, judged in zip(good, scored, strict=True):
        results[place] = judged
    reasons = [result.reason for result in results if result.reason]
    if reasons:
        _LOG.warning(
            "%d of %d responses have no reward; the first: %s", len(reasons), len(results), reasons[0]
        )
    return results


def _read_or_reason(read: Callable[[Any, Any], Any], *pair: Any) -> Any:
    """Return what `read` makes of two values, or a `Judged` with the reason why it cannot."""
    try:
        return read(*pair)
    except RowError as error:
        return Judged(reason=f"{error.field}: {error.reason}")


def _conversation(prompt: Any, completion: Any) -> Conversation:
    """Return a prompt and a response.

    Raises:
        RowError: one of them is not text, or the last turn is not the assistant's.

    """
    turns = normalise_prompt(prompt)
    if isinstance(completion, str):
        return turns, plain_text(completion, "completion")
    before, response = response_of(normalise_messages(completion, "completion"), "completion")
    if not before:
        return turns, response
    return (*((Message("user", turns),) if isinstance(turns, str) else turns), *before), response


def _texts(text: Any, prompt: Any) -> tuple[str, str]:
    """Return a templated conversation and its beginning.

    Raises:
        RowError: one of them is not text.

    """
    return plain_text(text, "query"), plain_text(prompt, "prompt")


def _salvaged(score: Callable[[Sequence[Any]], list[Judged]], pairs: Sequence[Any]) -> list[Judged]:
    """Score all pairs that can be scored; a refused part is halved until the faulty pair is alone."""
    results: list[Judged] = []
    for start in range(0, len(pairs), AT_A_TIME):
        part = pairs[start : start + AT_A_TIME]
        try:
            results += score(part)
        except BadInputError as error:
            middle = len(part) // 2
            halves = (part[:middle], part[middle:])
            alone = [Judged(reason=str(error))]
            results += [result for half in halves for result in _salvaged(score, half)] if middle else alone
    return results
