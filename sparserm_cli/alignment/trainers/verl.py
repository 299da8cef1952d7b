"""Reward functions for verl, named by its `custom_reward_function`.

    reward.custom_reward_function.path=.../sparserm_cli/alignment/trainers/verl.py
    reward.custom_reward_function.name=compute_score        (compute_score_batch for the batch manager)
    +reward.custom_reward_function.reward_kwargs.reward=http://127.0.0.1:8000

verl does not pass the prompt, so it must stand in the data as `extra_info.prompt`: text or messages. Workers
that compute rewards often see no GPU: name a server, not a folder. verl need not be installed.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from sparserm_cli.alignment.trainers.judging import Judged
from sparserm_cli.alignment.trainers.scorer import scorer_of
from sparserm_cli.config import ScoreLimits
from sparserm_cli.errors import BadInputError


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: Mapping[str, Any] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Return the reward of one response.

    Args:
        data_source: not used.
        solution_str: the response.
        ground_truth: not used.
        extra_info: holds the `prompt`.
        options: see `compute_score_batch`.

    Returns:
        what `compute_score_batch` returns for one response.

    Raises:
        BadInputError: there is no prompt.

    """
    return compute_score_batch([data_source], [solution_str], [ground_truth], [extra_info], **options)[0]


async def compute_score_async(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: Mapping[str, Any] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Return the result of `compute_score` without blocking the event loop."""
    arguments = (data_source, solution_str, ground_truth, extra_info)
    return await asyncio.to_thread(compute_score, *arguments, **options)


def compute_score_batch(
    data_sources: Sequence[str],
    solution_strs: Sequence[str],
    ground_truths: Sequence[Any],
    extra_infos: Sequence[Mapping[str, Any] | None],
    *,
    reward: str,
    normalize: bool = False,
    clip: float | None = None,
    abstain: float | None = None,
    fallback: float = 0.0,
    token_rewards: bool = False,
    **_: Any,
) -> list[dict[str, Any]]:
    """Return the rewards of several responses.

    Args:
        data_sources: not used.
        solution_strs: the responses.
        ground_truths: not used.
        extra_infos: each holds the `prompt` of a response.
        reward: address of a `sparserm serve`, or folder of a fitted reward model.
        normalize: whether to express scores in standard deviations from the mean of the training scores.
        clip: largest absolute score after normalising; scores beyond it are clipped.
        abstain: largest `ood` with which a response gets a score; 99 % of training responses are below 1.
        fallback: the value for a response without a score, because verl needs a number.
        token_rewards: whether to add the rewards of the response's tokens.

    Returns:
        per response its `score`, which verl uses, and the logged values `ood` and `scored` (1.0 or 0.0).

    Raises:
        BadInputError: a response has no prompt.

    """
    scorer = scorer_of(reward, ScoreLimits(normalize, clip, abstain))
    prompts = [_prompt(extra_info) for extra_info in extra_infos]
    judged = scorer.judge(prompts, list(solution_strs), by_token=token_rewards)
    return [_told(response, fallback, by_token=token_rewards) for response in judged]


def _told(response: Judged, fallback: float, *, by_token: bool) -> dict[str, Any]:
    """Return the result of one response for verl, which needs the same keys for all responses."""
    scored = response.score is not None
    result = {
        "score": response.score if scored else fallback,
        "ood": response.ood if response.ood is not None else float("nan"),
        "scored": float(scored),
    }
    return result | ({"token_rewards": response.tokens or []} if by_token else {})


def _prompt(extra_info: Mapping[str, Any] | None) -> Any:
    """Return the prompt as text or messages; Parquet files give messages as an array.

    Raises:
        BadInputError: there is no prompt.

    """
    prompt = (extra_info or {}).get("prompt")
    if prompt is None:
        raise BadInputError("extra_info", "a prompt", "none", "add the column extra_info.prompt to the data")
    return prompt
