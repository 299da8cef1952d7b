"""Names made and tested by a language model behind an OpenAI-compatible server.

The model sees the tokens that a direction promotes, the words where it fires and contexts with its tokens
marked; it answers with one line. The same model is then given held-out contexts, without marks, and says in
which of them the name holds (detection, as in Paulo et al. 2024, arXiv 2410.13928).
"""

import json
import os
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from sparserm_cli.analysis.describe.keywords import WordCount
from sparserm_cli.analysis.describe.promoted_tokens import Ends
from sparserm_cli.config import DESCRIBER_KEY
from sparserm_cli.errors import IncompatibleError
from sparserm_cli.http_client import Client, Words
from sparserm_cli.models.token_text import printable
from sparserm_cli.statistics.names import BalancedAccuracy, balanced_accuracy

PER_QUESTION = 10
"""Contexts in one question to the server."""
LONGEST_NAME = 100
"""Characters of a name."""
_TOKENS = 2048
_WORDS = Words(
    "a chat completion",
    "correct --describer-model",
    "an OpenAI-compatible server that lets us in",
    f"check --describer and ${DESCRIBER_KEY}",
)
_TASK = (
    "Below is evidence about one feature inside a language model: text in which it is active, its tokens "
    "between << and >>, words that are frequent there, and tokens that it promotes. "
    "Say in at most ten words what the feature detects. Answer with that phrase alone, on one line."
)
_TEST = (
    "A feature of text is described as: {name}\n\nFor each numbered text below decide whether the feature is "
    "present in it. Answer with a JSON list of 0 and 1 alone, one number per text, in order."
)


class ModelName(NamedTuple):
    """A name made by a language model.

    Fields:
        text: the name in one line.
        prompt: what the model was asked.
        answer: what it answered.
        score: how well the same model recognises held-out contexts by the name.
    """

    text: str
    prompt: str
    answer: str
    score: BalancedAccuracy


class Describer:
    """A language model behind an OpenAI-compatible server.

    Args:
        url: address of the server up to and with `/v1`.
        model: name of the model; None takes the first that the server lists.

    Raises:
        IncompatibleError: the address is wrong, or the server lists no model.
        TemporaryError: the server does not answer.

    """

    def __init__(self, url: str, model: str | None) -> None:
        self.url = url.rstrip("/")
        self._client = Client(self.url, os.environ.get(DESCRIBER_KEY, ""), _WORDS)
        self.model = model or self._first_model()

    def _first_model(self) -> str:
        listed = self._client.get("/models").get("data")
        names = [
            entry["id"]
            for entry in listed or ()
            if isinstance(entry, dict) and isinstance(entry.get("id"), str)
        ]
        if not names:
            hint = "give --describer-model"
            raise IncompatibleError(f"{self.url}/models", "a model", "none that it lists", hint)
        return names[0]

    def name(
        self,
        examples: Sequence[str],
        words: Sequence[WordCount],
        ends: Ends | None,
        firing: Sequence[str],
        others: Sequence[str],
    ) -> ModelName:
        """Make a name from some contexts, and test it on others.

        Args:
            examples: contexts with firing, their tokens marked.
            words: over-represented words.
            ends: tokens that the direction promotes and suppresses, if they are known.
            firing: held-out contexts in which the latent fires.
            others: held-out contexts in which it does not.

        Raises:
            IncompatibleError: the server refuses the key, or answers in another form.
            BadInputError: the server refuses the question.
            TemporaryError: the server does not answer.

        """
        prompt = _prompt(examples, words, ends)
        answer = self._answer(prompt)
        text = _one_line(answer)
        texts = [*firing, *others]
        # The order is drawn anew for each name, so that no place in a question stands for an answer.
        order = np.random.default_rng(len(texts)).permutation(len(texts))
        present = np.zeros(len(texts), bool)
        for start in range(0, len(texts) if text else 0, PER_QUESTION):
            part = order[start : start + PER_QUESTION]
            present[part] = self._present(text, [texts[number] for number in part])
        right, passed = int(present[: len(firing)].sum()), int((~present[len(firing) :]).sum())
        return ModelName(text, prompt, answer, balanced_accuracy(right, len(firing), passed, len(others)))

    def _present(self, name: str, texts: Sequence[str]) -> list[bool]:
        """Return in which texts the model finds what a name says; none where it answers in another form."""
        numbered = "\n\n".join(f"{number}. {text}" for number, text in enumerate(texts, start=1))
        answer = self._answer(f"{_TEST.format(name=name)}\n\n{numbered}")
        for match in reversed(re.findall(r"\[[\s0-9,]*\]", answer)):
            values = json.loads(match) if re.search(r"\d", match) else []
            if len(values) == len(texts):
                return [value == 1 for value in values]
        return [False] * len(texts)

    def _answer(self, prompt: str) -> str:
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": _TOKENS,
        }
        answer = self._client.post("/chat/completions", body)
        try:
            return str(answer["choices"][0]["message"]["content"] or "")
        except (LookupError, TypeError) as error:
            where, expected = f"{self.url}/chat/completions", "choices with a message"
            raise IncompatibleError(
                where, expected, repr(error), "give an OpenAI-compatible server"
            ) from None

    def to_json(self) -> dict[str, Any]:
        """Return which model makes the names."""
        return {"url": re.sub(r"//[^/@]*@", "//", self.url), "model": self.model}


def _prompt(examples: Sequence[str], words: Sequence[WordCount], ends: Ends | None) -> str:
    """Return the question for a name."""
    parts = [_TASK, "Texts:\n" + "\n".join(f"- {text}" for text in examples)]
    if words:
        parts.append("Frequent there: " + ", ".join(word.mark for word in words))
    if ends is not None:
        parts.append("Made more likely: " + ", ".join(repr(token.text) for token in ends.promoted))
    return "\n\n".join(parts)


def _one_line(answer: str) -> str:
    """Return the last line of an answer that says something, as a short name without control characters."""
    lines = [line.strip(" \t\"'*`.") for line in answer.split("</think>")[-1].splitlines()]
    return printable(next((line for line in reversed(lines) if line), ""))[:LONGEST_NAME]
