"""Rewards for OpenRLHF: the file that `--reward.remote_url` (older: `--remote_rm_url`) names.

    SPARSERM_REWARD=sparserm-run/reward ...
        --reward.remote_url .../sparserm_cli/alignment/trainers/openrlhf.py

`SPARSERM_REWARD` is the folder of a fitted reward model or the address of a `sparserm serve`, whose key is
`SPARSERM_API_KEY`. OpenRLHF can also call a server without a key directly, at `URL/get_reward`.
openrlhf need not be installed.
"""

import os
from collections.abc import Sequence
from typing import Any

from sparserm_cli.alignment.trainers.scorer import scorer_of
from sparserm_cli.config import ScoreLimits
from sparserm_cli.errors import UsageError

REWARD_VARIABLE = "SPARSERM_REWARD"


def reward_func(
    queries: Sequence[str],
    prompts: Sequence[str],
    labels: Sequence[Any] = (),
    *,
    normalize: bool = False,
    clip: float | None = None,
    abstain: float | None = None,
    fallback: float = 0.0,
    token_rewards: bool = False,
    **_: Any,
) -> dict[str, Any]:
    """Return the rewards of rollouts as tensors.

    Args:
        queries: each prompt with its response as one text, decoded with special tokens.
        prompts: the prompts, with the chat template applied.
        labels: not used.
        normalize: whether to express scores in standard deviations from the mean of the training scores.
        clip: largest absolute score after normalising; scores beyond it are clipped.
        abstain: largest `ood` with which a response gets a score; 99 % of training responses are below 1.
        fallback: the value for a response without a score, because OpenRLHF needs a number.
        token_rewards: whether to add the rewards of each response's tokens.

    Returns:
        tensors `rewards` and `scores`, and `extra_logs` with `ood` and `scored` (1.0 or 0.0).

    Raises:
        UsageError: the environment names no reward model.

    """
    import torch

    reward = os.environ.get(REWARD_VARIABLE, "")
    if not reward:
        expected, hint = "the folder of a reward model, or a server's address", "set it"
        raise UsageError(REWARD_VARIABLE, expected, "nothing", hint)
    scorer = scorer_of(reward, ScoreLimits(normalize, clip, abstain))
    judged = scorer.judge_texts(list(queries), list(prompts), by_token=token_rewards)
    scores = torch.tensor([fallback if response.score is None else response.score for response in judged])
    logs = {
        "ood": torch.tensor([float("nan") if response.ood is None else response.ood for response in judged]),
        "scored": torch.tensor([float(response.score is not None) for response in judged]),
    }
    answer = {"rewards": scores, "scores": scores, "extra_logs": logs}
    return answer | ({"token_rewards": [response.tokens for response in judged]} if token_rewards else {})
