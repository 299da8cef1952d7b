"""`fit --by`: a head per group where groups disagree, the shared head where they do not, and `--group`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import fitted_run
from typer.testing import CliRunner

from sparserm_cli.analysis.derivation.adapt import adapt
from sparserm_cli.analysis.derivation.edit import edit
from sparserm_cli.cli.main import app
from sparserm_cli.config import AdaptConfig, EditConfig, FitConfig, ScoreConfig
from sparserm_cli.errors import BadInputError, IncompatibleError, UsageError
from sparserm_cli.models.reward_model import RewardModel
from sparserm_cli.stages.fit.fit import fit
from sparserm_cli.stages.score.score import score
from sparserm_cli.store.artifacts.reward import read_reward, reward_path

QUIET = fitted_run.QUIET


def row_of(number: int) -> dict[str, Any]:
    """Make a pair: ann likes `good`, bob likes `poor`, and cid has few pairs."""
    name = "cid" if number >= 57 else ("ann", "ann", "bob")[number % 3]
    texts = ["good " * (1 + number % 3), "poor " * (1 + number % 3)]
    chosen, rejected = texts[::-1] if name == "bob" else texts
    return {"prompt": f"Question {number}?", "chosen": chosen, "rejected": rejected, "rater": name}


ROWS = [row_of(number) for number in range(60)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Path]) -> Path:
    """Give a run whose reward model has a head per rater."""
    fitted = {"by": "rater", "head": "linear", "loss": "bt"}
    return fitted_run.run_stages(tmp_path_factory.mktemp("by"), tiny_model("llama"), ROWS, fit_options=fitted)


def right(model: RewardModel, name: str) -> float:
    """Return the share of a rater's pairs that a reward model has right."""
    rows = model.score(dataset=[row for row in ROWS if row["rater"] == name])
    return float(np.mean([row["score_chosen"] > row["score_rejected"] for row in rows]))


def test_each_group_is_scored_by_its_own_head(run: Path) -> None:
    """Two raters who want opposite things are both right, each with a probe of its own."""
    assert right(RewardModel.load(run, group="ann"), "ann") == 1.0
    assert right(RewardModel.load(run, group="bob"), "bob") == 1.0
    assert right(RewardModel.load(run), "bob") < 1.0


def test_record_of_the_groups(run: Path) -> None:
    """Pairs, strengths and accuracies; with three pairs the shared head is kept."""
    files = read_reward(reward_path(run))
    facts = files.config.training["groups"]
    assert facts["column"] == "rater"
    assert list(facts["heads"]) == list(files.groups) == ["ann", "bob", "cid"]
    bob, cid = facts["heads"]["bob"], facts["heads"]["cid"]
    assert bob["own"]["accuracy"] == 1.0
    gain = bob["own"]["accuracy"] - bob["shared"]["accuracy"]
    assert bob["own_less_shared"]["value"] == pytest.approx(gain)
    assert cid["strength"] is None
    np.testing.assert_array_equal(files.groups["cid"]["weight"], files.head.weights["weight"])
    assert files.of_group(None) is files
    assert files.of_group("bob").config.score_std == bob["score_std"]


def test_scores_of_groups_have_logs_of_their_own(run: Path, tmp_path: Path) -> None:
    """The same file gives other scores by another head."""
    file = fitted_run.write_rows(tmp_path / "r.jsonl", [{"prompt": "Q?", "response": "good good"}])
    means = [
        score(ScoreConfig(run=run, file=file, output=str(tmp_path / "s.jsonl"), group=group), **QUIET).mean
        for group in (None, "ann", "bob", "ann")
    ]
    assert means[1] == means[3]
    assert len(set(means)) == 3


def test_a_change_keeps_one_head(run: Path, tmp_path: Path) -> None:
    """Edits and adaptations begin at the head of the named group, and the others are left out."""
    latent = read_reward(reward_path(run)).config.selection["latents"]["1"][0]
    options: dict[str, Any] = {"run": run, "drop": (f"1:{latent}",), "device": "cpu"}
    notes: list[str] = []
    whole = edit(
        EditConfig(**options, output=str(tmp_path / "whole")), progress=QUIET["progress"], note=notes.append
    )
    assert notes[0] == "the heads of the groups are left out; name one with --group to change that one"
    assert (read_reward(whole.path).groups, "groups" in whole.config.training) == ({}, False)
    made = edit(EditConfig(**options, group="bob", output=str(tmp_path / "bob")), **QUIET)
    assert not made.changes["validation"].held_out
    weight = read_reward(made.path).head.weights["weight"]
    np.testing.assert_array_equal(weight[1:], read_reward(reward_path(run)).groups["bob"]["weight"][1:])
    assert RewardModel.load(made.path).check_probe()
    file = fitted_run.write_rows(tmp_path / "p.jsonl", [row for row in ROWS[:20] if row["rater"] == "ann"])
    turned = adapt(AdaptConfig(run=run, file=file, group="bob", output=str(tmp_path / "turned")), **QUIET)
    assert (turned.old.accuracy, turned.new.accuracy) == (0.0, 1.0)


def test_groups_that_are_not_there_are_refused(run: Path) -> None:
    """The error names those that are most alike."""
    with pytest.raises(UsageError) as caught:
        RewardModel.load(run, group="bobo")
    assert str(caught.value) == (
        "--group: expected a group of the reward model, found 'bobo'; near ones are bob, cid, ann"
    )
    with pytest.raises(UsageError) as caught:
        fit(FitConfig(run=run, val_fraction=0.2, by="ratr"), **QUIET)
    data = run.parent / "pairs.jsonl"
    assert (
        str(caught.value) == f"--by: expected a column of {data}, found 'ratr'; its other columns are rater"
    )


def test_changed_or_missing_data_are_refused(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The column is read from the data that were captured, and from no others."""
    data = tmp_path / "pairs.jsonl"
    monkeypatch.setattr("sparserm_cli.stages.fit.group_heads.input_path", lambda _run, _file: data)
    config = FitConfig(run=run, val_fraction=0.1, by="rater")
    with pytest.raises(BadInputError, match="found no file; put the file back"):
        fit(config, **QUIET)
    fitted_run.write_rows(data, [*ROWS[:-1], {**ROWS[-1], "rater": "dan"}])
    with pytest.raises(IncompatibleError, match="restore the data"):
        fit(config, **QUIET)


def test_the_command_shows_a_line_per_group(run: Path) -> None:
    """Words for people; JSON has the same under training."""
    words = [
        "fit",
        "--run",
        str(run),
        "--by",
        "rater",
        "--head",
        "linear",
        "--loss",
        "bt",
        "--val-fraction",
        "0.2",
    ]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "one head per group, on the group's validation pairs:" in done.stdout
    done = CliRunner().invoke(app, [*words, "--json"], catch_exceptions=False)
    assert list(json.loads(done.stdout)["training"]["groups"]["heads"]) == ["ann", "bob", "cid"]
