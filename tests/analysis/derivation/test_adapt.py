"""`adapt`: a head that moves towards labels, keeps what it knew, and stays where no move helps."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import fitted_run
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from sparserm_cli.analysis.derivation.adapt import SPLIT, AdaptSummary, adapt
from sparserm_cli.cli.main import app
from sparserm_cli.config import AdaptConfig, FitConfig
from sparserm_cli.errors import BadInputError
from sparserm_cli.models.head.heads import scores_of
from sparserm_cli.models.reward_model import RewardModel
from sparserm_cli.stages.fit.adaptation import STRENGTHS, adaptation, shifted
from sparserm_cli.stages.fit.fit import fit
from sparserm_cli.store.artifacts.reward import read_reward, reward_path

pytestmark = pytest.mark.slow

QUIET, ROWS = fitted_run.QUIET, fitted_run.ROWS
TURNED = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in ROWS[30:]]
"""Ten pairs of a user who likes what the reward model dislikes."""


@pytest.fixture(scope="module")
def rewards(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Path]) -> dict[str, Path]:
    """Give a reward model with each head."""
    run = fitted_run.run_stages(tmp_path_factory.mktemp("adapt"), tiny_model("llama"), ROWS[:30])
    folders = {}
    for head in ("mlp", "linear"):
        fit(FitConfig(run=run, val_fraction=0.2, head=head, loss="bt"), **QUIET)
        folders[head] = reward_path(run).rename(run / head)
    return folders


def do(reward: Path, folder: Path, rows: list[dict[str, Any]], **options: Any) -> AdaptSummary:
    """Adapt quietly."""
    data = fitted_run.write_rows(folder / "pairs.jsonl", rows)
    return adapt(AdaptConfig(file=data, reward=reward, output=str(folder / "new"), **options), **QUIET)


def pairs_of(seed: int, count: int, signs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give differences of pairs whose chosen side is higher along `signs`, and their prompts."""
    differences = np.random.default_rng(seed).normal(size=(count, len(signs)))
    differences *= np.where(differences @ signs > 0, 1, -1)[:, None]
    return differences, np.arange(count, dtype=np.uint64)


def test_a_wrong_head_turns_round() -> None:
    """Margins by a direction that says nothing of the labels: the shift finds the one that does."""
    differences, groups = pairs_of(0, 60, np.array([0.0, 0.0, 1.0]))
    fitted = adaptation(differences, differences[:, 0], groups, repeats=2, seed=0)
    assert fitted.strength in STRENGTHS
    assert fitted.old.accuracy == np.mean(differences[:, 0] > 0)
    assert np.mean(fitted.margins > 0) > 0.9
    assert abs(fitted.shift[2]) > 3 * abs(fitted.shift[1])
    assert np.mean(differences[:, 0] + differences @ fitted.shift > 0) > 0.95


@given(st.integers(0, 50))
def test_labels_of_nothing_never_count_as_better(seed: int) -> None:
    """With random labels the head moves only if folds say that it is as often right, with less loss."""
    generator = np.random.default_rng(seed)
    differences, groups = generator.normal(size=(12, 4)), np.arange(12, dtype=np.uint64)
    fitted = adaptation(differences, generator.normal(size=12), groups, repeats=1, seed=seed)
    if fitted.strength is None:
        assert not fitted.shift.any()
        assert not [
            each
            for each in fitted.tried
            if each.loss < fitted.old.loss and each.accuracy >= fitted.old.accuracy
        ]
    else:
        chosen = next(each for each in fitted.tried if each.strength == fitted.strength)
        assert chosen.loss < fitted.old.loss
        assert chosen.accuracy >= fitted.old.accuracy


def test_a_stronger_penalty_moves_less() -> None:
    """One pair with difference 2 and margin 0: the shift s solves 2 / (1 + exp(2 s)) = strength * s."""
    from sparserm_cli.stages.fit.adaptation import _path

    shifts = _path(np.array([[2.0]]), np.array([0.0]))[:, 0]
    assert (np.diff(shifts) > 0).all()
    np.testing.assert_allclose(2 / (1 + np.exp(2 * shifts)), np.array(STRENGTHS) * shifts, atol=1e-4)


@given(st.lists(st.floats(-3, 3), min_size=3, max_size=3))
def test_every_head_takes_the_same_shift(shift: list[float]) -> None:
    """The score becomes the old one plus x times the shift, for a hidden layer too."""
    generator = np.random.default_rng(1)
    x = generator.normal(size=(5, 3)).astype(np.float32)
    linear = {"weight": generator.normal(size=3), "bias": np.ones(1)}
    mlp = {
        "weight_1": generator.normal(size=(3, 4)),
        "bias_1": np.ones(4),
        "weight_2": -np.ones(4),
        "bias": np.ones(1),
    }
    for tensors in (linear, mlp):
        weights = {name: values.astype(np.float32) for name, values in tensors.items()}
        moved = scores_of(shifted(weights, np.array(shift)), x)
        np.testing.assert_allclose(moved, scores_of(weights, x) + x @ np.array(shift), atol=1e-4)


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_ten_labels_turn_a_reward_model_round(head: str, rewards: dict[str, Path], tmp_path: Path) -> None:
    """Right on none of the pairs before, and on all of them after, as its record says."""
    made = do(rewards[head], tmp_path, TURNED)
    assert (made.old.accuracy, made.new.accuracy) == (0.0, 1.0)
    assert made.gain.value == 1.0
    scores = RewardModel.load(made.path).score(dataset=TURNED)  # which scores the probe first
    assert all(row["score_chosen"] > row["score_rejected"] for row in scores)
    old, new = read_reward(rewards[head]).config, made.config
    step = new.derivation[0]
    assert (step["by"], step["parent"], step["pairs"], step["prompts"]) == (
        "adapt",
        old.lineage.digest,
        10,
        10,
    )
    assert step["strength"] == made.found.strength
    assert new.lineage.parents["reward"].digest == old.lineage.digest
    assert [(metric.scorer, metric.split, metric.accuracy) for metric in new.metrics[:1]] == [
        ("reward", SPLIT, 1.0)
    ]
    assert not any((metric.scorer, metric.split) == ("reward", "validation") for metric in new.metrics)
    assert len(new.training["prompt_groups"]) == len(old.training["prompt_groups"]) + 10
    assert new.score_std > 0


def test_labels_that_the_head_knows_move_nothing_wrong(rewards: dict[str, Path], tmp_path: Path) -> None:
    """On pairs of its own kind the new head is right where the old one was."""
    made = do(rewards["linear"], tmp_path, ROWS[30:])
    assert made.new.accuracy >= made.old.accuracy == 1.0
    scores = RewardModel.load(made.path).score(dataset=ROWS[:30])
    assert all(row["score_chosen"] > row["score_rejected"] for row in scores)


def test_a_head_that_no_move_helps_is_kept(rewards: dict[str, Path], tmp_path: Path) -> None:
    """Equal answers, labelled one way and the other: every move is worse, and the tensors stay."""
    rows = [{**row, "prompt": f"Other {n}?"} for n, row in enumerate(ROWS[30:34] + TURNED[:4])]
    notes: list[str] = []
    data = fitted_run.write_rows(tmp_path / "pairs.jsonl", rows)
    config = AdaptConfig(file=data, reward=rewards["linear"], output=str(tmp_path / "new"))
    made = adapt(config, progress=QUIET["progress"], note=notes.append)
    if made.found.strength is None:
        assert notes[-1] == "no strength is better than the old head on the inner folds: the old head is kept"
        np.testing.assert_array_equal(
            read_reward(made.path).head.weights["weight"],
            read_reward(rewards["linear"]).head.weights["weight"],
        )
    assert made.new.accuracy >= made.old.accuracy


def test_too_few_labels_are_refused(rewards: dict[str, Path], tmp_path: Path) -> None:
    """Five pairs of two prompts are the least."""
    with pytest.raises(BadInputError) as caught:
        do(rewards["linear"], tmp_path, ROWS[:4])
    assert str(caught.value) == (
        f"{tmp_path / 'pairs.jsonl'}: expected at least 5 pairs of 2 prompts, found 4 of 4; label more pairs"
    )


def test_the_command_says_what_the_labels_are_worth(rewards: dict[str, Path], tmp_path: Path) -> None:
    """Words for people, and the same numbers as JSON."""
    data = fitted_run.write_rows(tmp_path / "pairs.jsonl", TURNED)
    words = ["adapt", data, "--reward", str(rewards["linear"]), "--output"]
    done = CliRunner().invoke(app, [*words, str(tmp_path / "a")], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "10 pairs of 10 prompts: the head is moved, with a penalty of " in done.stdout
    assert "right before: 0.0 %" in done.stdout
    done = CliRunner().invoke(app, [*words, str(tmp_path / "b"), "--json"], catch_exceptions=False)
    output = json.loads(done.stdout)
    assert (output["kept"], output["old"]["accuracy"], output["new"]["accuracy"]) == (False, 0.0, 1.0)
    assert [each["strength"] for each in output["tried"]] == [None, *STRENGTHS]
