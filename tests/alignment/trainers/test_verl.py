"""Rewards for verl: one by one and in batches, from a folder and from a server."""

import asyncio
import math
import time
from pathlib import Path

import numpy as np
import pytest

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
    return server.url


def test_single_batch_and_coroutine_agree(place: str, model: RewardModel) -> None:
    """With what verl's managers pass besides; a dict whose `score` is the library's."""
    expected = model.score(PROMPTS, RESPONSES)
    batch = compute_score_batch(["d"] * 2, RESPONSES, [None] * 2, INFOS, reward=place, num_workers=8)
    np.testing.assert_allclose([result["score"] for result in batch], expected, atol=1e-5)
    for number in range(2):
        arguments = ("d", RESPONSES[number], "truth", INFOS[number])
        single = compute_score(*arguments, reward=place, reward_router_address=None)
        assert single == pytest.approx(batch[number], abs=1e-5)
        assert asyncio.run(compute_score_async(*arguments, reward=place)) == pytest.approx(single, abs=1e-5)
        assert single["scored"] == 1.0


def test_row_81_any_number_of_callers_load_a_model_once(
    reward: Path, model: RewardModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And all get the right scores, whatever guards they ask for."""
    loads = []

    def load(*args: object, **options: object) -> RewardModel:
        loads.append(args)
        time.sleep(0.05)  # so that the others ask meanwhile
        return RewardModel_load(*args, **options)

    RewardModel_load = RewardModel.load  # noqa: N806
    monkeypatch.setattr(RewardModel, "load", load)
    copy = str(reward) + "/."  # a place that no test has loaded before

    async def ask() -> list[dict[str, float]]:
        arguments = [("d", text, None, info) for text, info in zip(RESPONSES, INFOS, strict=True)] * 6
        guards = [{}, {"clip": 1e9}] * 6
        calls = [
            compute_score_async(*call, reward=copy, **more)
            for call, more in zip(arguments, guards, strict=True)
        ]
        return await asyncio.gather(*calls)

    results = asyncio.run(ask())
    assert len(loads) == 1
    expected = model.score(PROMPTS, RESPONSES).tolist() * 6
    np.testing.assert_allclose([result["score"] for result in results], expected, atol=1e-5)


def test_responses_without_a_score_get_the_fallback(place: str) -> None:
    """And say so, with the same keys as others."""
    result = compute_score("d", "", None, INFOS[0], reward=place, fallback=-3.0)
    assert (result["score"], result["scored"], math.isnan(result["ood"])) == (-3.0, 0.0, True)


def test_token_rewards_add_up(place: str) -> None:
    """Where they are asked for."""
    result = compute_score("d", RESPONSES[0], None, INFOS[0], reward=place, token_rewards=True)
    assert sum(result["token_rewards"]) == pytest.approx(result["score"], abs=2e-5)


def test_row_80_prompts_in_parts_score_as_text(place: str) -> None:
    """As arrays of Parquet files hold them; a picture leaves the response without a score."""
    text, picture = {"type": "text", "text": PROMPTS[1], "image": None}, {"type": "image", "image": "x.png"}
    infos = [
        {"prompt": np.array([{"role": "user", "content": np.array(content, dtype=object)}], dtype=object)}
        for content in ([text], [text, picture])
    ]
    results = compute_score_batch(["d"] * 2, [RESPONSES[1]] * 2, [None] * 2, infos, reward=place)
    plain = compute_score("d", RESPONSES[1], None, INFOS[1], reward=place)
    assert results[0] == pytest.approx(plain, abs=1e-5)
    assert (results[1]["score"], results[1]["scored"]) == (0.0, 0.0)


@pytest.mark.parametrize("info", [None, {}, {"index": 3}])
def test_the_prompt_must_be_in_the_data(info: dict[str, int] | None, reward: Path) -> None:
    """The error names the column."""
    with pytest.raises(BadInputError) as caught:
        compute_score("d", "x", None, info, reward=str(reward))
    assert str(caught.value) == (
        "extra_info: expected a prompt, found none; add the column extra_info.prompt to the data"
    )
