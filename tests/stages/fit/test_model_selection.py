"""`fit --choose`: planted runs in which one setting must win, what is recorded, and the folds by hand."""

import itertools
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from helpers import planted_run as planted

from sparserm_cli.config import FitConfig, FrequencyConfig, HeadSetting, SelectConfig
from sparserm_cli.errors import BadInputError
from sparserm_cli.stages.fit import fit, model_selection
from sparserm_cli.stages.frequency.frequency import frequency
from sparserm_cli.stages.select.select import select
from sparserm_cli.store.artifacts.directions import read_directions, write_directions
from sparserm_cli.store.artifacts.reward import RewardConfig

pytestmark = pytest.mark.slow

LINEAR, MLP = model_selection.SETTINGS
AXES = 4
"""Directions; each is one axis of the residual stream."""


class Chosen(NamedTuple):
    """A run on which `fit --choose` was run, and the progress it told."""

    run: Path
    summary: fit.FitSummary
    seen: list[tuple[int, int]]


def quiet(_done: object = None, _all: object = None) -> None:
    """Neither progress nor notes."""


def exclusive_or(rng: np.random.Generator, good: bool, length: int) -> np.ndarray:
    """Give two axes one sign in chosen responses and opposite ones in rejected: no plane parts them."""
    sign = rng.choice([-1.0, 1.0])
    stream = rng.normal(0, 0.3, (length, planted.D_IN))
    stream[:, :2] += [sign, sign if good else -sign]
    return stream


def last_token_tells(rng: np.random.Generator, good: bool, length: int) -> np.ndarray:
    """Tell the side, wrongly in one of ten, by the last token; those before make the mean know nothing."""
    side = 1.0 if good != (rng.random() < 0.1) else -1.0
    stream = rng.normal(0, 0.3, (length, planted.D_IN))
    stream[-1, 0] += side
    stream[:-1, 0] -= side / (length - 1)
    return stream


def prepared(run: Path, residual: Callable[..., np.ndarray], prompts: int = 150) -> Path:
    """Plant a run whose directions are axes of the residual stream."""
    made = planted.plant(run, prompts=prompts, residual=residual)
    frequency(FrequencyConfig(run=run), progress=quiet, note=quiet)
    select(SelectConfig(run=run, top_k=AXES // 2), note=quiet, decoder=made.decoder)
    directions = read_directions(run)
    axes = np.eye(AXES, planted.D_IN, dtype=np.float32)
    write_directions(run, replace(directions, layers={3: replace(directions.layers[3], rows=axes)}))
    return run


def fitted(run: Path, progress: Callable[[int, int], None] = quiet, **options: Any) -> fit.FitSummary:
    """Run the stage."""
    return fit.fit(FitConfig(run=run, **options), progress=progress, note=quiet)


def accuracies(config: RewardConfig) -> dict[str, float]:
    """Return what each setting has reached."""
    return {setting["name"]: setting["accuracy"] for setting in config.training["choice"]["tried"]}


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Chosen:
    """Give a run on which the linear head on mean and last vectors is best, chosen; tests read it only."""
    run, seen = prepared(tmp_path_factory.mktemp("noisy"), last_token_tells), list[tuple[int, int]]()
    return Chosen(run, fitted(run, lambda done, total: seen.append((done, total)), choose=True), seen)


@pytest.fixture
def copy(noisy: Chosen, tmp_path: Path) -> Path:
    """Give a copy of that run to fit in."""
    return Path(shutil.copytree(noisy.run, tmp_path / "copy"))


def test_the_mlp_wins_where_no_plane_parts_the_sides(tmp_path: Path):
    """An exclusive or of two directions: a linear head can only guess."""
    config = fitted(prepared(tmp_path, exclusive_or), choose=True).config
    accuracy_of = accuracies(config)
    assert accuracy_of[MLP] > 0.9
    assert accuracy_of[LINEAR] < 0.65
    assert config.training["choice"]["chosen"] == MLP
    assert (config.pool, config.head, config.loss) == ("mean", "mlp", "margin")


def test_the_linear_head_wins_where_the_last_token_tells(noisy: Chosen):
    """Means of a response do not know what its last token says."""
    config = noisy.summary.config
    accuracy_of = accuracies(config)
    assert 0.75 < accuracy_of[LINEAR] < 0.95
    assert accuracy_of[MLP] < 0.65
    assert config.training["choice"]["chosen"] == LINEAR
    assert (config.pool, config.head, config.loss) == ("both", "linear", "bt")


def test_a_chosen_setting_gives_the_reward_model_that_it_gives_when_told(noisy: Chosen, copy: Path):
    """To the bit, with the same figures; but it is another artifact, and its card tells of no choice."""
    chosen, given = noisy.summary.config, fitted(copy, **vars(model_selection.SETTINGS[LINEAR]))
    assert not given.fresh
    assert given.config.lineage.digest == chosen.lineage.digest
    training = {name: value for name, value in chosen.training.items() if name != "choice"}
    assert replace(chosen, lineage=given.config.lineage, training=training) == given.config
    assert "How the head was chosen" not in (copy / "reward" / "README.md").read_text()


def test_choosing_again_computes_nothing(noisy: Chosen, monkeypatch: pytest.MonkeyPatch):
    """What was tried is read from the artifact."""
    monkeypatch.setattr(fit, "try_settings", None)
    again = fitted(noisy.run, choose=True)
    assert again.fresh
    assert again.config == noisy.summary.config


def test_other_settings_to_choose_among_are_another_artifact(copy: Path, monkeypatch: pytest.MonkeyPatch):
    """As a later version of the program may have them."""
    monkeypatch.setattr(model_selection, "SETTINGS", {"last": HeadSetting("last", "linear", "bt")})
    other = fitted(copy, choose=True)
    assert not other.fresh
    assert other.config.pool == "last"


def test_what_was_tried_is_recorded(noisy: Chosen):
    """In the config, with the pairs that train as n, and on the card."""
    training = noisy.summary.config.training
    choice = training["choice"]
    assert (choice["chosen"], choice["folds"]) == (LINEAR, 3)
    assert [setting["pairs"] for setting in choice["tried"]] == [training["train_pairs"]] * 2
    assert {
        setting["name"]: HeadSetting(setting["pool"], setting["head"], setting["loss"])
        for setting in choice["tried"]
    } == model_selection.SETTINGS
    card = (noisy.run / "reward" / "README.md").read_text()
    assert f"part; `{LINEAR}` did best." in card
    first, second = (f"{setting['accuracy']:.3f} | {setting['pairs']}" for setting in choice["tried"])
    assert f"| {LINEAR} | both | linear | bt | {first} |\n| {MLP} | mean | mlp | margin | {second} |" in card


def test_progress_is_of_all_fits(noisy: Chosen):
    """It never goes back, counts to one total and goes on through the fit itself."""
    done = [steps for steps, _ in noisy.seen]
    assert done == sorted(done)
    assert {total for _, total in noisy.seen} == {700}
    assert done[0] < 100
    assert 600 < done[-1] <= 700


def test_many_pairs_are_sampled(copy: Path, monkeypatch: pytest.MonkeyPatch):
    """At most so many choose, validation pairs among them."""
    monkeypatch.setattr(model_selection, "INNER_PAIRS", 60)
    monkeypatch.setattr(model_selection, "SETTINGS", {LINEAR: model_selection.SETTINGS[LINEAR]})
    (tried,) = fitted(copy, choose=True).config.training["choice"]["tried"]
    assert 40 < tried["pairs"] < 60


def test_too_few_prompts_to_choose_by(tmp_path: Path):
    """Each fold needs a prompt."""
    prepared(tmp_path, last_token_tells, prompts=2)
    with pytest.raises(BadInputError) as caught:
        fitted(tmp_path, choose=True, val_fraction=0.0)
    assert str(caught.value) == (
        f"{tmp_path}/activations.zarr: expected 3 training prompts to choose by, found 2; "
        "use more data or no --choose"
    )


def test_each_pair_is_tested_once_without_its_prompt():
    """Six pairs of four prompts; a fit that knows the pairs it learned from, and gets the others wrong."""
    pairs = np.arange(12).reshape(-1, 2)
    groups = np.array([7, 7, 7, 8, 9, 10], np.uint64)
    learned_from = []

    def by_heart(learned: np.ndarray) -> np.ndarray:
        learned_from.append(learned.tolist())
        scores = np.zeros(12)
        scores[pairs[learned, 0]] = 1.0
        scores[pairs[3]] = 2.0, 1.0
        return scores

    # The fourth pair is right whoever scores it, the others only where they were learned from.
    assert model_selection.accuracy_by_folds(by_heart, pairs, groups, seed=0) == pytest.approx(1 / 6)
    tested = [sorted(set(range(6)) - set(rows)) for rows in learned_from]
    assert sorted(itertools.chain(*tested)) == list(range(6))
    assert [0, 1, 2] in tested
