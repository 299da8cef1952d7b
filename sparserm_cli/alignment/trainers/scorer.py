"""What the adapters for trainers share: rewards of what a policy wrote, from this process or from a server.

A policy writes all kinds of things. What cannot be scored (nothing, too much, or what the reward model
abstains from) has None for a score; it never stops a training run.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from sparserm_cli.alignment.trainers.client import post
from sparserm_cli.config import KEY_VARIABLE, Guards
from sparserm_cli.data.templated_text import ConversationText
from sparserm_cli.errors import BadInputError
from sparserm_cli.models.reward_model import UNGUARDED, Prompt, RewardModel

AT_A_TIME = 64
"""Responses in one request or one computation."""


class Judged(NamedTuple):
    """What is known of one response.

    Fields:
        score: its reward; None if there is none.
        ood: how far it is from the training responses, 99 % of which are below 1; None if it was not scored.
        tokens: its tokens' rewards if they were asked for; they add up to the score.
    """

    score: float | None = None
    ood: float | None = None
    tokens: list[float] | None = None


class Scorer(ABC):
    """Scores what a policy wrote."""

    def judge(
        self, prompts: Sequence[Prompt], responses: Sequence[str], *, by_token: bool = False
    ) -> list[Judged]:
        """Score responses to prompts, each a user's words or messages.

        Raises:
            ValueError: not as many prompts as responses.

        """
        return _salvaged(
            lambda pairs: self._score(pairs, by_token), list(zip(prompts, responses, strict=True))
        )

    def judge_texts(
        self, texts: Sequence[str], prompts: Sequence[str], *, by_token: bool = False
    ) -> list[Judged]:
        """Score conversations that have been through the chat template; prompts are their beginnings, or "".

        Raises:
            ValueError: not as many prompts as texts.

        """
        return _salvaged(
            lambda pairs: self._score_texts(pairs, by_token), list(zip(texts, prompts, strict=True))
        )

    @abstractmethod
    def _score(self, pairs: Sequence[tuple[Prompt, str]], by_token: bool) -> list[Judged]:
        """Score prompts and responses; raises BadInputError if one of them cannot be scored."""

    @abstractmethod
    def _score_texts(self, pairs: Sequence[tuple[str, str]], by_token: bool) -> list[Judged]:
        """Score texts and prompts; raises BadInputError if one of them cannot be scored."""


@cache
def scorer_of(reward: str, guards: Guards = UNGUARDED, device: str = "auto") -> Scorer:
    """Return what scores: a server if `reward` is a URL, else the reward model of that folder, loaded once.

    A server has guards and a device of its own; its key is `SPARSERM_API_KEY` of the environment.
    """
    if reward.startswith(("http://", "https://")):
        return ServerScorer(reward, os.environ.get(KEY_VARIABLE, "").strip())
    return LocalScorer(RewardModel.load(reward, device=device), guards)


class LocalScorer(Scorer):
    """Scores in this process.

    Args:
        model: the reward model.
        guards: what is done to its scores.

    """

    def __init__(self, model: RewardModel, guards: Guards = UNGUARDED) -> None:
        self._model, self._guards, self._text = model, guards, ConversationText(model.template)

    def _score(self, pairs: Sequence[tuple[Prompt, str]], by_token: bool) -> list[Judged]:
        rows = self._model.encode([prompt for prompt, _ in pairs], [response for _, response in pairs])
        found = self._model.rewards(rows, self._guards, tokens=by_token)
        scores = [None if np.isnan(score) else float(score) for score in found.scores]
        tokens = [None if one is None else one.tolist() for one in found.tokens] or [None] * len(pairs)
        return list(map(Judged, scores, found.ood.tolist(), tokens))

    def _score_texts(self, pairs: Sequence[tuple[str, str]], by_token: bool) -> list[Judged]:
        return self._score([self._text.cut(text, prompt) for text, prompt in pairs], by_token)


class ServerScorer(Scorer):
    """Asks a `sparserm serve`.

    Args:
        url: its address, such as `http://127.0.0.1:8000`.
        key: its bearer key; "" sends none.

    """

    def __init__(self, url: str, key: str = "") -> None:
        self._url, self._key = url.rstrip("/"), key

    def _score(self, pairs: Sequence[tuple[Prompt, str]], by_token: bool) -> list[Judged]:
        if all(isinstance(prompt, str) for prompt, _ in pairs):
            body = {"queries": [prompt for prompt, _ in pairs], "documents": [text for _, text in pairs]}
            data = self._post("/score", body, by_token)["data"]
            return [Judged(one["score"], one["ood"], _rewards(one["tokens"])) for one in data]
        body = {"messages": [[*_messages(prompt), _turn("assistant", text)] for prompt, text in pairs]}
        data = self._post("/classify", body, by_token)["data"]
        return [Judged(one["probs"][0], one["ood"], _rewards(one["tokens"])) for one in data]

    def _score_texts(self, pairs: Sequence[tuple[str, str]], by_token: bool) -> list[Judged]:
        body = {"query": [text for text, _ in pairs], "prompts": [prompt for _, prompt in pairs]}
        answer = self._post("/get_reward", body, by_token)
        tokens = map(_rewards, answer["tokens"] or [None] * len(pairs))
        return list(map(Judged, answer["rewards"], answer["extra_logs"]["ood"], tokens))

    def _post(self, path: str, body: dict[str, Any], by_token: bool) -> Any:
        return post(self._url + path, {**body, "token_rewards": by_token}, key=self._key)


def _salvaged(score: Callable[[Sequence[Any]], list[Judged]], pairs: Sequence[Any]) -> list[Judged]:
    """Score all that can be scored: a part that is refused is halved until what is to blame stands alone."""
    found: list[Judged] = []
    for start in range(0, len(pairs), AT_A_TIME):
        part = pairs[start : start + AT_A_TIME]
        try:
            found += score(part)
        except BadInputError:
            middle = len(part) // 2
            halves = (part[:middle], part[middle:])
            found += [one for half in halves for one in _salvaged(score, half)] if middle else [Judged()]
    return found


def _messages(prompt: Prompt) -> list[dict[str, str]]:
    """Return a prompt as messages."""
    if isinstance(prompt, str):
        return [_turn("user", prompt)]
    return [
        _turn(turn["role"], turn["content"]) if isinstance(turn, dict) else turn._asdict() for turn in prompt
    ]


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _rewards(tokens: Any) -> list[float] | None:
    """Return the rewards of an answer's `tokens`."""
    return None if tokens is None else tokens["rewards"]
