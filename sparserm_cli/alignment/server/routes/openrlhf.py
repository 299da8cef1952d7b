"""OpenRLHF's remote reward, empty lists included."""

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from sparserm_cli.alignment.server.bodies import StrictRoute
from sparserm_cli.alignment.server.gate import RefusedError
from sparserm_cli.alignment.server.schemas import REFUSALS, Applied, Request, TextList, TokenRewards
from sparserm_cli.alignment.server.scoring import Served, cut_text, judge

router = APIRouter(route_class=StrictRoute)
NOT_COMPUTED = -1.0
"""What stands for an `ood` that was not computed where null may not, since no distance is negative."""


class RewardRequest(Request):
    """`/get_reward`: rollouts."""

    query: TextList
    """Prompt and response as one text, decoded with their special tokens."""
    prompts: TextList = Field(default_factory=list)
    """The prompts alone, as many or none; they tell exactly where the responses begin."""
    labels: list[Any] = Field(default_factory=list)
    """Let pass."""


class RewardAnswer(BaseModel):
    """Answer of `/get_reward`."""

    rewards: list[float | None]
    scores: list[float | None]
    extra_logs: dict[str, list[float | None]]
    tokens: list[TokenRewards | None] | None = None
    reasons: list[str | None]
    """Why a rollout has no score; null for those that have."""
    guards: Applied


@router.post("/get_reward", response_model=RewardAnswer, responses=REFUSALS)
async def get_reward(asked: RewardRequest, service: Served) -> dict[str, Any]:
    """Score rollouts."""
    prompts = asked.prompts or [""] * len(asked.query)
    if len(prompts) != len(asked.query):
        raise RefusedError(422, f"{len(prompts)} prompts for {len(asked.query)} queries")
    pairs = [cut_text(service, text, prompt) for text, prompt in zip(asked.query, prompts, strict=True)]
    found = await judge(service, asked, pairs)
    reasons = [one.reason for one in found.members]
    # A trainer that needs a number for every score makes tensors of what it logs as well.
    not_computed = None if service.config.unscorable is None else NOT_COMPUTED
    logs = {
        "ood": [not_computed if one.ood is None else one.ood for one in found.members],
        "scored": [float(reason is None) for reason in reasons],
    }
    return {
        "rewards": found.scores,
        "scores": found.scores,
        "extra_logs": logs,
        "tokens": [one.tokens for one in found.members] if asked.token_rewards else None,
        "reasons": reasons,
        "guards": asdict(found.guards),
    }
