"""Rewards for OpenRLHF: the file it loads by its path."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparserm_cli.alignment.trainers import openrlhf
from sparserm_cli.config import KEY_VARIABLE
from sparserm_cli.errors import UsageError
from sparserm_cli.models.reward_model import RewardModel

RESPONSES = ["Yes, 3 is good", "no never"]


@pytest.fixture
def function() -> Any:
    """Load the file as OpenRLHF does."""
    spec = spec_from_file_location("reward_func", openrlhf.__file__)
    assert spec is not None
    assert spec.loader is not None
    loaded = module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded.reward_func


@pytest.fixture(params=["folder", "server"])
def place(request: pytest.FixtureRequest, reward: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name a folder, or a server and its key, in the environment."""
    where = str(reward)
    if request.param == "server":
        server = request.getfixturevalue("server")
        where = server.url
        monkeypatch.setenv(KEY_VARIABLE, server.key)
    monkeypatch.setenv(openrlhf.REWARD_VARIABLE, where)
    return where


@pytest.mark.usefixtures("place")
def test_rollouts_are_scored_one_by_one(function: Any, model: RewardModel) -> None:
    """Positional lists of one; tensors come back."""
    prompt = model.template.render("Question 3?")
    expected = model.score(["Question 3?"] * 2, RESPONSES)
    for response, score in zip(RESPONSES, expected, strict=True):
        result = function([f"{prompt}{response}<|im_end|>"], [prompt], ["label"], more=1)
        assert result["rewards"].tolist() == result["scores"].tolist()
        np.testing.assert_allclose(result["rewards"], [score], atol=1e-5)
        assert result["extra_logs"]["scored"].tolist() == [1.0]


@pytest.mark.usefixtures("place")
def test_rollouts_without_a_score_get_the_fallback(function: Any, model: RewardModel) -> None:
    """An empty response, and a text that is no conversation."""
    prompt = model.template.render("Question 3?")
    result = function([f"{prompt}<|im_end|>", "what?"], [prompt, ""], [None, None], fallback=-2.0)
    assert result["rewards"].tolist() == [-2.0, -2.0]
    assert result["extra_logs"]["scored"].tolist() == [0.0, 0.0]


@pytest.mark.usefixtures("place")
def test_token_rewards_add_up(function: Any, model: RewardModel) -> None:
    """Where they are asked for."""
    prompt = model.template.render("Question 3?")
    result = function([prompt + RESPONSES[0]], [prompt], [None], token_rewards=True)
    assert sum(result["token_rewards"][0]) == pytest.approx(float(result["rewards"][0]), abs=2e-5)


def test_the_environment_must_name_a_reward_model(function: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenRLHF passes no options to the function."""
    monkeypatch.delenv(openrlhf.REWARD_VARIABLE, raising=False)
    with pytest.raises(UsageError) as caught:
        function([], [], [])
    assert str(caught.value) == (
        "SPARSERM_REWARD: expected the folder of a reward model, or a server's address, found nothing; set it"
    )
