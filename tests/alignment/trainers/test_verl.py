"""Rewards for verl: one by one and in batches, from a folder and from a server."""

import asyncio
import math
from pathlib import Path

import numpy as np
import pytest

from sparserm_cli.alignment.trainers.scorer import scorer_of
from sparserm_cli.alignment.trainers.verl import compute_score, compute_score_async, compute_score_batch
from sparserm_cli.config import KEY_VARIABLE
from sparserm_cli.errors import BadInputError
from sparserm_cli.models.reward_model import RewardModel

PROMPTS = ["Question 3?", "Question 4?"]
RESPONSES = ["Yes, 3 is good", "no never"]
INFOS = [
    {"prompt": PROMPTS[0], "index": 0},
    # A column of messages comes from parquet as an array.
    {"prompt": np.array([{"role": "user", "content": PROMPTS[1]}], dtype=object)},
]


@pytest.fixture(params=["folder", "server"])
def place(request: pytest.FixtureRequest, reward: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Give a folder, and a server's address with the key in the environment."""
    if request.param == "folder":
        return str(reward)
    server = request.getfixturevalue("server")
    monkeypatch.setenv(KEY_VARIABLE, server.key)
    scorer_of.cache_clear()
    return server.url


def test_single_batch_and_coroutine_agree(place: str, model: RewardModel) -> None:
    """With what verl's managers pass besides; a dict whose `score` is the library's."""
    expected = model.score(PROMPTS, RESPONSES)
    batch = compute_score_batch(["d"] * 2, RESPONSES, [None] * 2, INFOS, reward=place, num_workers=8)
    np.testing.assert_allclose([one["score"] for one in batch], expected, atol=1e-5)
    for number in range(2):
        asked = ("d", RESPONSES[number], "truth", INFOS[number])
        single = compute_score(*asked, reward=place, reward_router_address=None)
        assert single == pytest.approx(batch[number], abs=1e-5)
        assert asyncio.run(compute_score_async(*asked, reward=place)) == pytest.approx(single, abs=1e-5)
        assert single["scored"] == 1.0


def test_responses_without_a_score_get_the_fallback(place: str) -> None:
    """And say so, with the same keys as others."""
    found = compute_score("d", "", None, INFOS[0], reward=place, fallback=-3.0)
    assert (found["score"], found["scored"], math.isnan(found["ood"])) == (-3.0, 0.0, True)


def test_token_rewards_add_up(place: str) -> None:
    """Where they are asked for."""
    found = compute_score("d", RESPONSES[0], None, INFOS[0], reward=place, token_rewards=True)
    assert sum(found["token_rewards"]) == pytest.approx(found["score"], abs=2e-5)


@pytest.mark.parametrize("info", [None, {}, {"index": 3}])
def test_the_prompt_must_be_in_the_data(info: dict[str, int] | None, reward: Path) -> None:
    """The error names the column."""
    with pytest.raises(BadInputError) as caught:
        compute_score("d", "x", None, info, reward=str(reward))
    assert str(caught.value) == (
        "extra_info: expected a prompt, found none; add the column extra_info.prompt to the data"
    )
