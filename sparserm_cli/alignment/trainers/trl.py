"""Reward functions for TRL, called by `GRPOTrainer(reward_funcs=...)` and similar trainers.

    from sparserm_cli.alignment.trainers.trl import SparseReward

    trainer = GRPOTrainer(model, reward_funcs=SparseReward("sparserm-run/reward", normalize=True), ...)

Neither class is a `torch.nn.Module`, which TRL would take for a model of its own. trl need not be installed.
"""

import asyncio
import inspect
from collections.abc import Sequence
from typing import Any

from sparserm_cli.alignment.trainers.scorer import scorer_of
from sparserm_cli.config import ScoreLimits

Turns = Sequence[dict[str, Any]]


class SparseReward:
    """A reward function for TRL.

    Args:
        reward: folder of a fitted reward model, or address of a `sparserm serve`, whose key is that of the
            environment and whose guards apply where none are given here.
        normalize: whether to express scores in standard deviations from the mean of the training scores.
        clip: largest absolute score after normalising; scores beyond it are clipped.
        abstain: largest `ood` with which a response gets a score; 99 % of training responses are below 1.
        device: torch device of a folder's model.
        name: the name of the reward in TRL's logs.

    """

    def __init__(
        self,
        reward: str,
        *,
        normalize: bool = False,
        clip: float | None = None,
        abstain: float | None = None,
        device: str = "auto",
        name: str = "sparserm",
    ) -> None:
        self.__name__ = name
        self._scorer = scorer_of(str(reward), ScoreLimits(normalize, clip, abstain), device)

    def __call__(
        self, prompts: Sequence[str | Turns], completions: Sequence[str | Turns], **others: Any
    ) -> list[float | None]:
        """Return one reward per completion; None means no reward, and TRL leaves it out.

        Args:
            prompts: texts, each one user turn, or lists of messages.
            completions: texts, or lists of messages of which the last is scored if it is the assistant's. The
                content of a message may be text or parts of text.
            others: further arguments of TRL; its `log_metric` is called with the mean `ood`.

        """
        judged = self._scorer.judge(prompts, completions)
        distances = [response.ood for response in judged if response.ood is not None]
        if distances and "log_metric" in others:
            others["log_metric"](f"{self.__name__}/ood", sum(distances) / len(distances))
        return [response.score for response in judged]

    def token_rewards(
        self, prompts: Sequence[str | Turns], completions: Sequence[str | Turns]
    ) -> list[list[float] | None]:
        """Return the rewards of each completion's tokens, which add up to its reward; None without a reward.

        The tokens are those of the reward model's tokenizer. Linear heads give exact values.
        """
        return [response.tokens for response in self._scorer.judge(prompts, completions, by_token=True)]


class AsyncSparseReward(SparseReward):
    """`SparseReward` as a coroutine function, so that TRL awaits it concurrently with other rewards.

    TRL below 1.14 asks `inspect.iscoroutinefunction` of the reward function itself, which knows functions
    and what has their attributes, but does not look at the `__call__` of an object; later ones do.

    Args:
        reward: as for `SparseReward`.
        options: as for `SparseReward`.

    """

    def __init__(self, reward: str, **options: Any) -> None:
        super().__init__(reward, **options)
        call = type(self).__call__
        self.__signature__ = inspect.signature(self.__call__)
        self.__code__, self.__annotations__ = call.__code__, dict(call.__annotations__)
        self.__defaults__ = self.__kwdefaults__ = None

    async def __call__(  # type: ignore[override]
        self, prompts: Sequence[str | Turns], completions: Sequence[str | Turns], **others: Any
    ) -> list[float | None]:
        """Return the result of `SparseReward` without blocking the event loop."""
        return await asyncio.to_thread(super().__call__, prompts, completions, **others)
