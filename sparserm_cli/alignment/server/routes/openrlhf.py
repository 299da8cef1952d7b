"""The remote reward protocol of OpenRLHF, including empty lists."""

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from sparserm_cli.alignment.server.bodies import StrictRoute
from sparserm_cli.alignment.server.gate import RefusedError
from sparserm_cli.alignment.server.schemas import (
    REFUSALS,
    Applied,
    Request,
    ScoreParts,
    TextList,
    TokenRewards,
)
from sparserm_cli.alignment.server.scoring import Served, cut_text, judge

router = APIRouter(route_class=StrictRoute)
NOT_COMPUTED = -1.0
"""The value of an `ood` that was not computed, where null is not allowed; no distance is negative."""


class RewardRequest(Request):
    """The request of `/get_reward`: rollouts."""

    query: TextList
    """Each prompt with its response as one text, decoded with special tokens."""
    prompts: TextList = Field(default_factory=list)
    """The prompts, one per query or none at all; they say exactly where the responses begin."""
    labels: list[Any] = Field(default_factory=list)
    """This field is accepted and ignored."""


class RewardAnswer(BaseModel):
    """The answer of `/get_reward`."""

    rewards: list[float | None]
    scores: list[float | None]
    extra_logs: dict[str, list[float | None]]
    tokens: list[TokenRewards | None] | None = None
    parts: list[ScoreParts | None] | None = None
    reasons: list[str | None]
    """The reason why a rollout has no score; null if it has one."""
    guards: Applied


@router.post("/get_reward", response_model=RewardAnswer, responses=REFUSALS)
async def get_reward(request: RewardRequest, service: Served) -> dict[str, Any]:
    """Score rollouts."""
    prompts = request.prompts or [""] * len(request.query)
    if len(prompts) != len(request.query):
        raise RefusedError(422, f"{len(prompts)} prompts for {len(request.query)} queries")
    pairs = [cut_text(service, text, prompt) for text, prompt in zip(request.query, prompts, strict=True)]
    verdict = await judge(service, request, pairs)
    reasons = [response.reason for response in verdict.members]
    # A trainer that needs a number for every score also makes tensors of the logged values.
    not_computed = None if service.config.unscorable is None else NOT_COMPUTED
    logs = {
        "ood": [not_computed if response.ood is None else response.ood for response in verdict.members],
        "scored": [float(reason is None) for reason in reasons],
    }
    return {
        "rewards": verdict.scores,
        "scores": verdict.scores,
        "extra_logs": logs,
        "tokens": [response.tokens for response in verdict.members] if request.token_rewards else None,
        "parts": [response.parts for response in verdict.members] if request.parts else None,
        "reasons": reasons,
        "guards": asdict(verdict.guards),
    }
