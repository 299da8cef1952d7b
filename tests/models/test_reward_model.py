"""A reward model as a library: loading, scoring, explaining, pickling."""

import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from sparserm_cli.errors import BadInputError, IncompatibleError, UsageError
from sparserm_cli.hub_errors import HubRequest
from sparserm_cli.models import reward_loading, reward_model
from sparserm_cli.models.reward_model import RewardModel


@pytest.fixture(scope="module")
def model(fitted_run: Path) -> RewardModel:
    """Give the reward model of the shared run, found from its run directory."""
    return RewardModel.from_pretrained(fitted_run, device="cpu")


def test_two_texts_are_one_response(model: RewardModel):
    """Not as many as they have letters."""
    (score,) = model.score("Question 1?", "good good")
    several = model.score("Question 1?", ["good good", "poor"])
    assert several.dtype == np.float32
    np.testing.assert_allclose(several[0], score, rtol=1e-4)
    np.testing.assert_allclose(model.score(["Question 1?"] * 2, ["good good", "poor"]), several, rtol=1e-4)
    np.testing.assert_allclose(model("Question 1?", "good good"), [score], rtol=1e-4)
    assert model.score([], []).shape == (0,)


def test_windows_change_nothing(model: RewardModel, monkeypatch: pytest.MonkeyPatch):
    """However many rows are computed together."""
    prompts, responses = [f"Question {n}?" for n in range(5)], ["good", "poor", "good good", "so", "no"]
    expected = model.score(prompts, responses, deterministic=True)
    monkeypatch.setattr(reward_model, "WINDOW_ROWS", 2)
    assert np.array_equal(model.score(prompts, responses, deterministic=True), expected)


def test_a_data_set_gets_columns(model: RewardModel):
    """The scores of its own responses."""
    rows = [{"prompt": f"Question {n}?", "chosen": "good", "rejected": "poor poor"} for n in range(3)]
    scored = model.score(dataset=rows)
    chosen = model.score([row["prompt"] for row in rows], ["good", "good", "good"])
    np.testing.assert_allclose([row["score_chosen"] for row in scored], chosen, rtol=1e-3, atol=1e-4)
    with pytest.raises(UsageError, match="expected prompts and responses, or a dataset, found both"):
        model.score("a", "b", dataset=rows)
    long = {"prompt": "Question 1?", "chosen": "good " * 2000, "rejected": "poor"}
    with pytest.raises(BadInputError, match=r"^row 2: expected at most \d+ tokens, found "):
        model.score(dataset=[rows[0], long])


def test_an_explanation_adds_up(model: RewardModel):
    """The parts of directions and tokens make the score that `score` gives."""
    explanation = model.explain("Question 1?", "good good")
    (score,) = model.score("Question 1?", "good good")
    np.testing.assert_allclose(explanation.score, score, rtol=1e-4)
    assert explanation.score == pytest.approx(
        explanation.intercept + sum(o.contribution for o in explanation.directions), abs=1e-2
    )
    tokens = pd.DataFrame(list(explanation.tokens))
    assert tokens.columns.tolist() == ["text", "id", "contribution"]
    assert "".join(tokens.text).startswith("good good")


def test_directions_are_a_frame(model: RewardModel):
    """One row per projection, with what is known of it and what it does to the score."""
    frame = model.directions()
    assert len(frame) == len(model.head.arrays.mean)
    assert set(frame.side) == {1, -1}
    assert frame.feature.notna().all()
    assert frame.rate_chosen.between(0, 1).all()
    for number in (0, len(frame) - 1):
        x = torch.zeros((2, len(frame)))
        x[0, number], x[1, number] = 1, -1
        above, below = model.head.score(x).tolist()
        assert frame.effect[number] == pytest.approx((above - below) / 2, abs=1e-5)
    assert frame.effect[frame.side == 1].mean() > frame.effect[frame.side == -1].mean()


def test_it_says_what_it_is(model: RewardModel, fitted_run: Path):
    """The head, its projections, the layers and the model."""
    count = len(model.head.arrays.mean)
    assert repr(model) == (
        f"RewardModel('{fitted_run}/reward': mlp head on {count} projections, mean over layer 1 of "
        f"{model.config.model}, on cpu)"
    )


def test_a_pickle_is_loaded_again_and_must_be_the_same(fitted_run: Path, tmp_path: Path):
    """Small, equal to the bit, and refused when the folder holds another reward model."""
    run = shutil.copytree(fitted_run, tmp_path / "run", symlinks=True)
    model = RewardModel.load(run / "reward", device="cpu")
    data = pickle.dumps(model)
    assert len(data) < 1000
    again: Any = pickle.loads(data)  # noqa: S301 - made two lines above
    expected = model.score("Question 1?", "good", deterministic=True)
    assert np.array_equal(again.score("Question 1?", "good", deterministic=True), expected)
    shutil.rmtree(run / "reward")
    with pytest.raises(IncompatibleError):
        pickle.loads(data)  # noqa: S301
    other = pickle.dumps(model).replace(model.config.lineage.digest.encode(), b"0" * 32)
    shutil.copytree(fitted_run / "reward", run / "reward")
    with pytest.raises(IncompatibleError, match=f"digest: expected {'0' * 32}, found "):
        pickle.loads(other)  # noqa: S301


def test_a_folder_a_run_and_a_hub_id_are_found(
    fitted_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The hub's files are asked for by name and revision; what is no reward model is refused."""
    requests = []

    def hub_folder(request: HubRequest, revision: str, files: Any) -> Path:
        requests.append((request.repo, revision, request.offline))
        return fitted_run / "reward"

    monkeypatch.setattr(reward_loading, "hub_folder", hub_folder)
    monkeypatch.chdir(tmp_path)
    for name in ("owner/reward@v1", fitted_run / "reward"):
        assert RewardModel.from_pretrained(name, offline=True).path == fitted_run / "reward"
    assert requests == [("owner/reward", "v1", True)]
    with pytest.raises(IncompatibleError, match="expected a fitted reward model, found no folder"):
        RewardModel.from_pretrained("not-there")
