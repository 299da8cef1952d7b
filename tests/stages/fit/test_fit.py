"""`fit` on runs with planted latents: the head, its controls, what is recorded, what is refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import planted_run as planted

from sparserm_cli.config import FitConfig, FrequencyConfig, SelectConfig
from sparserm_cli.errors import BadInputError, CorruptStoreError, IncompatibleError
from sparserm_cli.models.head.reward_head import RewardHead
from sparserm_cli.stages.fit.fit import FitSummary, fit
from sparserm_cli.stages.fit.split import split_pairs
from sparserm_cli.stages.frequency.frequency import frequency
from sparserm_cli.stages.select.select import select
from sparserm_cli.store.artifacts.directions import read_directions, write_directions
from sparserm_cli.store.artifacts.reward import read_reward, reward_path
from sparserm_cli.store.capture.artifact import capture_path
from sparserm_cli.store.capture.reader import ActivationsReader

pytestmark = pytest.mark.slow


def quiet(_done: object = None, _all: object = None) -> None:
    """Neither progress nor notes."""


def prepared(run: Path, top_k: int = 2, by: str = "difference", **options: object) -> planted.Planted:
    """Plant a run, count it, select."""
    made = planted.plant(run, **options)
    frequency(FrequencyConfig(run=run), progress=quiet, note=quiet)
    select(SelectConfig(run=run, top_k=top_k, by=by), note=quiet, decoder=made.decoder)
    return made


def fitted(run: Path, note: Callable[[str], None] = quiet, **options: object) -> FitSummary:
    """Run the stage."""
    return fit(
        FitConfig(run=run, **{"val_fraction": 0.2, "head": "linear", "loss": "bt", **options}),
        progress=quiet,
        note=note,
    )


def accuracy(summary: FitSummary, scorer: str, split: str = "validation") -> float:
    """Return one of the recorded accuracies."""
    (metric,) = [each for each in summary.config.metrics if (each.scorer, each.split) == (scorer, split)]
    return metric.accuracy


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> planted.Planted:
    """Give a run of 300 prompts with two directions a side; tests only fit in it."""
    return prepared(tmp_path_factory.mktemp("run"), prompts=300)


@pytest.mark.parametrize("head", ["linear", "mlp"])
@pytest.mark.parametrize("loss", ["bt", "margin", "bce"])
def test_planted_directions_are_learned(run: planted.Planted, head: str, loss: str):
    """Every head with every loss tells the sides apart, far better than as many random directions."""
    summary = fitted(run.run, head=head, loss=loss)
    assert accuracy(summary, "reward") > 0.9
    assert accuracy(summary, "reward") > accuracy(summary, "random directions") + 0.05
    assert accuracy(summary, "dense") > 0.85
    assert accuracy(summary, "difference of means") > 0.85


def test_planted_weights_have_the_right_signs(run: planted.Planted):
    """The preferred direction adds to the score, the dispreferred one takes from it."""
    fitted(run.run)
    weight = read_reward(reward_path(run.run)).head.weights["weight"]
    assert weight[0] > 0 > weight[2]


def test_without_a_signal_every_scorer_is_near_chance(tmp_path: Path):
    """Latents that fire alike on both sides cannot be told apart on held-out prompts."""
    prepared(tmp_path, strength=0.0, prompts=300)
    summary = fitted(tmp_path, val_fraction=0.5)
    for scorer in ("reward", "random directions", "dense", "difference of means"):
        assert 0.38 < accuracy(summary, scorer) < 0.62, scorer


def test_flipped_labels_flip_the_scores(tmp_path: Path):
    """The same data with sides swapped give the opposite score to every response."""
    scores = []
    for name, flip in (("a", False), ("b", True)):
        made = prepared(tmp_path / name, flip=flip)
        fitted(tmp_path / name)
        head = RewardHead.from_files(read_reward(reward_path(tmp_path / name)))
        scores.append(head({3: {"mean": made.capture.pooled(3, "mean")}}))
    assert scores[0] == pytest.approx(-scores[1], abs=2e-3)


def test_the_size_of_units_does_not_matter(tmp_path: Path):
    """The same reward model to the bit, whatever units the data was cut into."""
    digests = set()
    for number, unit_tokens in enumerate((60, 100_000)):
        prepared(tmp_path / str(number), unit_tokens=unit_tokens)
        digests.add(fitted(tmp_path / str(number)).config.lineage.digest)
    assert len(digests) == 1


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_the_seed_fixes_everything(run: planted.Planted, head: str):
    """Fitting twice gives the same tensors; another seed other ones."""
    first, again, other = (fitted(run.run, head=head, seed=seed).config.lineage.digest for seed in (4, 4, 5))
    assert first == again
    assert other != first


@pytest.mark.parametrize(("pool", "width"), [("mean", 4), ("last", 4), ("both", 8)])
def test_pooling(run: planted.Planted, pool: str, width: int):
    """Both poolings side by side are twice as many projections."""
    fitted(run.run, pool=pool)
    files = read_reward(reward_path(run.run))
    assert len(files.head.mean) == width
    assert files.config.pool == pool
    assert len(files.controls["random directions"].mean) == width
    assert len(files.controls["dense"].mean) == planted.D_IN


def test_several_layers(tmp_path: Path):
    """Directions of two layers stand side by side, each standardised on its own."""
    made = prepared(tmp_path, layers=(2, 5))
    summary = fitted(tmp_path)
    files = read_reward(reward_path(tmp_path))
    assert files.config.layers == (2, 5)
    assert files.config.hook_names == ("blocks.2.hook_resid_post", "blocks.5.hook_resid_post")
    assert len(files.head.mean) == 8
    assert len(files.controls["dense"].mean) == 2 * planted.D_IN
    assert accuracy(summary, "reward") > 0.85
    pooled = {layer: {"mean": made.capture.pooled(layer, "mean")} for layer in (2, 5)}
    expected = np.concatenate([pooled[n]["mean"] @ files.head.directions[n].T for n in (2, 5)], axis=1)
    standardised = RewardHead.from_files(files).standardised(pooled).numpy()
    assert standardised == pytest.approx((expected - files.head.mean) / files.head.std, abs=1e-5)


def test_recorded_figures_are_those_of_the_stored_model(run: planted.Planted):
    """Mean, spread and accuracies follow from scoring the capture with what lies on the disk."""
    summary = fitted(run.run)
    files = read_reward(reward_path(run.run))
    assert files.config == summary.config
    scores = RewardHead.from_files(files)({3: {"mean": run.capture.pooled(3, "mean")}}).astype(np.float64)
    split = split_pairs(run.capture, 0.2, 0)
    pairs = split.rows[split.pairs]
    right = scores[pairs[:, 0]] > scores[pairs[:, 1]]
    assert accuracy(summary, "reward", "train") == pytest.approx(right.mean())
    assert summary.config.score_mean == pytest.approx(scores[split.rows].mean(), abs=1e-5)
    assert summary.config.score_mean == pytest.approx(0.0, abs=1e-4)
    assert summary.config.score_std == pytest.approx(scores[split.rows].std(), rel=1e-4)
    assert 0.8 < summary.config.distance["0.5"] < 1.2
    assert summary.config.distance["0.5"] < summary.config.distance["0.99"]


def test_validation_accuracy_is_of_a_head_that_has_not_seen_the_pairs(tmp_path: Path):
    """Without a signal the stored head knows all pairs by heart; the validation figure does not show it."""
    prepared(tmp_path, strength=0.0, prompts=60, top_k=16)
    summary = fitted(tmp_path, val_fraction=0.5, head="linear")
    stored = RewardHead.from_files(read_reward(reward_path(tmp_path)))
    capture = ActivationsReader(capture_path(tmp_path))
    split = split_pairs(capture, 0.5, 0)
    scores = stored({3: {"mean": capture.pooled(3, "mean")}})
    held_out = split.rows[split.pairs[split.validation]]
    by_heart = float((scores[held_out[:, 0]] > scores[held_out[:, 1]]).mean())
    assert by_heart > accuracy(summary, "reward") + 0.1


def test_recorded_provenance(run: planted.Planted):
    """Model, template, data, selection and split can be read off the config."""
    config = fitted(run.run, seed=0).config
    assert (config.model, config.model_revision, config.template) == ("tiny", "sha256:0", "raw")
    assert (config.d_in, config.dtype, config.max_length) == (planted.D_IN, "float32", 512)
    assert config.selection["latents"]["3"][0] == planted.GOOD
    assert config.selection["sides"]["3"] == [1, 1, -1, -1]
    assert config.training["inputs"] == [f"{'ab' * 32} (10 bytes)"]
    assert config.training["train_pairs"] + config.training["validation_pairs"] == 300
    assert len(config.training["prompt_groups"]) == config.training["train_prompts"]
    assert set(config.lineage.parents) == {"activations", "directions"}
    card = (reward_path(run.run) / "README.md").read_text()
    assert "base_model: tiny" in card
    assert f"| reward | validation | {config.metrics[0].accuracy:.3f} |" in card


def test_validation_prompts_that_were_selected_on_are_told(run: planted.Planted):
    """The frequencies were counted with a tenth held out, the fit holds out a fifth."""
    notes: list[str] = []
    fitted(run.run, note=notes.append)
    assert notes[0] == (
        "the frequencies were counted with another --val-fraction or --seed: "
        "validation prompts had a part in the selection"
    )
    notes.clear()
    fitted(run.run, note=notes.append, val_fraction=0.1)
    assert notes == [
        "fitting the controls: partial least squares, random directions, dense, difference of means"
    ]


def test_no_validation_prompts(tmp_path: Path):
    """Three prompts and a tiny share leave none to validate with."""
    prepared(tmp_path, prompts=3, top_k=1)
    with pytest.raises(BadInputError) as caught:
        fitted(tmp_path, val_fraction=1e-6)
    assert "expected pairs of validation prompts, found none of 3" in str(caught.value)


def test_val_fraction_0_takes_ridge_regression_of_the_middle_strength(run: planted.Planted):
    """Without validation nothing is chosen, and only training accuracies are recorded."""
    config = fitted(run.run, val_fraction=0.0).config
    assert (config.training["whitening"], config.training["l2"]) == (0.0, pytest.approx(10**-1.5))
    assert {metric.split for metric in config.metrics} == {"train"}


def test_a_plain_head_is_recorded(run: planted.Planted):
    """The config says so, the identity too, and the reward model scores as any other."""
    summary = fitted(run.run, head="mlp", loss="margin", plain=True)
    stored = read_reward(reward_path(run.run))
    assert (stored.config.plain, stored.config.head, stored.config.loss) == (True, "mlp", "margin")
    assert stored.config.lineage.identity["plain"] is True
    assert stored.head.weights["weight_1"].shape == (4, 512)
    assert accuracy(summary, "reward") > 0.85
    usual = fitted(run.run).config
    assert (usual.plain, "plain" in usual.lineage.identity) == (False, False)


def test_penalties_of_the_head_and_of_the_controls_are_recorded(run: planted.Planted):
    """Every head says which whitening and strength it has."""
    training = fitted(run.run, seed=3).config.training
    controls = training["control_penalties"]
    assert list(controls) == ["partial least squares", "random directions", "dense", "difference of means"]
    assert controls.pop("difference of means") == []
    for penalty in (training, *(penalty for (penalty,) in controls.values())):
        assert penalty["whitening"] in {0.0, 0.25, 0.5}
        assert 1e-4 <= penalty["l2"] <= 10.0


def test_row_36_directions_of_other_features(tmp_path: Path):
    """Directions whose features have been made anew are stale; the error names the artifact."""
    prepared(tmp_path / "a")
    prepared(tmp_path / "b", seed=1)
    (tmp_path / "a" / "directions").rename(tmp_path / "old")
    (tmp_path / "b" / "directions").rename(tmp_path / "a" / "directions")
    with pytest.raises(IncompatibleError) as caught:
        fitted(tmp_path / "a")
    assert f"{tmp_path}/a/directions (from frequency)" in str(caught.value)
    assert "it is stale: run `sparserm frequency` and `sparserm select`" in str(caught.value)


def test_no_directions_yet(tmp_path: Path):
    """The error says what to run."""
    planted.plant(tmp_path, prompts=3)
    with pytest.raises(IncompatibleError) as caught:
        fitted(tmp_path)
    assert caught.value.hint == "run `sparserm select` first"


def test_directions_of_unknown_origin(tmp_path: Path):
    """Directions that do not tell of their frequencies are refused by name."""
    prepared(tmp_path)
    stored = read_directions(tmp_path)
    parents = {name: parent for name, parent in stored.lineage.parents.items() if name != "frequency"}
    write_directions(tmp_path, replace(stored, lineage=replace(stored.lineage, parents=parents)))
    with pytest.raises(CorruptStoreError) as caught:
        fitted(tmp_path)
    assert str(caught.value) == (
        "directions: expected a parent frequency, found features, activations; run the stage again"
    )
