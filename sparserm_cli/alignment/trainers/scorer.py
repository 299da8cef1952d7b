"""Rewards computed in this process, and the factory of scorers for a folder or a server's address."""

import os
from collections.abc import Sequence
from functools import cache
from threading import Lock
from typing import Any

import numpy as np

from sparserm_cli.alignment.trainers.judging import Conversation, Judged, Scorer
from sparserm_cli.alignment.trainers.server_scorer import ServerScorer
from sparserm_cli.config import KEY_VARIABLE, ScoreLimits
from sparserm_cli.data.rendering.templated_text import ConversationText
from sparserm_cli.errors import BadInputError, IncompatibleError
from sparserm_cli.models.reward_model import UNGUARDED, RewardModel

_LOADING = Lock()


def scorer_of(reward: str, guards: ScoreLimits = UNGUARDED, device: str = "auto") -> Scorer:
    """Return a scorer: a server if `reward` is a URL, otherwise the reward model of that folder.

    A model is loaded once, however many threads request it at the same time, with any guards. The key
    of a server is `SPARSERM_API_KEY` of the environment.
    """
    with _LOADING:
        if reward.startswith(("http://", "https://")):
            return _server(reward, os.environ.get(KEY_VARIABLE, "").strip(), guards)
        return LocalScorer(_local(reward, device), guards)


@cache
def _server(url: str, key: str, guards: ScoreLimits) -> ServerScorer:
    return ServerScorer(url, key, guards)


@cache
def _local(reward: str, device: str) -> "LocalModel":
    return LocalModel(RewardModel.load(reward, device=device))


class LocalModel:
    """A reward model in this process; one thread at a time computes with it.

    Args:
        model: the reward model.

    """

    def __init__(self, model: RewardModel) -> None:
        self.model, self.text, self.busy = model, ConversationText(model.template), Lock()


class LocalScorer(Scorer):
    """Scores in this process.

    Args:
        local: the reward model.
        guards: the normalisation and limits applied to its scores.

    """

    def __init__(self, local: LocalModel, guards: ScoreLimits = UNGUARDED) -> None:
        self._local, self._guards = local, guards

    def _score(self, pairs: Sequence[Conversation], by_token: bool, until: float) -> list[Judged]:
        model, prompts, responses = (
            self._local.model,
            [pair[0] for pair in pairs],
            [pair[1] for pair in pairs],
        )
        with self._local.busy:
            try:
                rows = model.tokenize(prompts, responses)
            except IncompatibleError as error:  # the chat template refuses these turns
                raise BadInputError(error.where, error.expected, error.found, error.hint) from error
            rewards = model.rewards(rows, self._guards, tokens=by_token)
        scores: list[Any] = [None if np.isnan(score) else float(score) for score in rewards.scores]
        tokens = [None if values is None else values.tolist() for values in rewards.tokens] or [None] * len(
            pairs
        )
        return list(map(Judged, scores, rewards.ood.tolist(), tokens))

    def _score_texts(self, pairs: Sequence[tuple[str, str]], by_token: bool, until: float) -> list[Judged]:
        return self._score([self._local.text.cut(text, prompt) for text, prompt in pairs], by_token, until)
