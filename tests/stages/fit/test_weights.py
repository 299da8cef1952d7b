"""`fit --weights margin`: pairs count by how much better the data say that the chosen response is."""

from pathlib import Path

import numpy as np
import pytest
from helpers import planted_run as planted

from sparserm_cli.config import FitConfig, FrequencyConfig, SelectConfig
from sparserm_cli.errors import UsageError
from sparserm_cli.models.head.reward_head import RewardHead
from sparserm_cli.stages.fit.fit import FitSummary, fit
from sparserm_cli.stages.fit.split import split_pairs, weighted_by_margin
from sparserm_cli.stages.frequency.frequency import frequency
from sparserm_cli.stages.select.select import select
from sparserm_cli.store.artifacts.reward import read_reward, reward_path
from sparserm_cli.store.exchange.capture_files import export_capture, import_capture
from sparserm_cli.store.public.capture import open_capture

pytestmark = pytest.mark.slow

PROMPTS = 200
SWAPPED = frozenset(number for number in range(PROMPTS) if number % 10 < 7)
"""Prompts, seven of ten, whose pairs are the wrong way round."""
MARGINS = [0.1 if number in SWAPPED else 5.0 for number in range(PROMPTS)]


def fitted(run: Path, notes: list[str] | None = None, **options: object) -> FitSummary:
    """Run the stage and keep its notes."""
    config = FitConfig(run=run, **{"val_fraction": 0.2, "head": "linear", "loss": "bt", **options})
    kept = [] if notes is None else notes
    return fit(config, progress=lambda _done, _total: None, note=kept.append)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> planted.Planted:
    """Give a run most of whose pairs are the wrong way round, with small margins."""
    folder = tmp_path_factory.mktemp("run")
    made = planted.plant(folder, prompts=PROMPTS, flip=SWAPPED, margins=MARGINS)
    frequency(FrequencyConfig(run=folder), progress=lambda _done, _total: None, note=lambda _text: None)
    select(SelectConfig(run=folder, top_k=2), note=lambda _text: None, decoder=made.decoder)
    return made


def won_by_the_heavy(made: planted.Planted, name: str | None) -> float:
    """Return the share of prompts whose first response, which the heavy pairs prefer, scores higher."""
    files = read_reward(reward_path(made.run))
    arrays = files.head if name is None else files.controls[name]
    pooled = {3: {"mean": made.capture.pooled(3, "mean")}}
    scores = RewardHead(arrays, (3,), "mean")(pooled).reshape(-1, 2)
    return float((scores[:, 0] > scores[:, 1]).mean())


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_heavy_pairs_win_in_the_head_and_in_the_controls(run: planted.Planted, head: str):
    """They are fewer, so that without weights the others win."""
    scorers = (None, "dense", "difference of means")
    fitted(run.run, head=head)
    assert max(won_by_the_heavy(run, name) for name in scorers) < 0.3
    fitted(run.run, head=head, weights="margin")
    assert min(won_by_the_heavy(run, name) for name in scorers) > 0.7


def test_weights_are_recorded_and_part_of_the_identity(run: planted.Planted):
    """A reward model without weights keeps the identity that it had before there were any."""
    notes: list[str] = []
    plain = fitted(run.run).config
    assert "weights" not in plain.lineage.identity
    assert "weights" not in plain.training
    summary = fitted(run.run, notes, weights="margin")
    assert not summary.fresh
    assert fitted(run.run, weights="margin").fresh
    assert summary.config.lineage.identity["weights"] == "margin"
    mean = pytest.approx(0.7 * 0.1 + 0.3 * 5.0)
    facts = {"by": "margin", "mean_margin": mean, "unknown": 0, "not_above_0": 0}
    assert summary.config.training["weights"] == facts
    assert "each pair counts by its margin, 1.57 on average" in notes


def test_weights_by_hand(tmp_path: Path):
    """Known margins 4, 1, -3 and 0 count 4, 1, 0 and 0, whose mean is 1.25; an unknown one counts 1."""
    made = planted.plant(tmp_path, prompts=5, margins=[4.0, None, 1.0, -3.0, 0.0])
    split = split_pairs(made.capture, 0.2, 0)
    weighted, facts = weighted_by_margin(split, made.capture)
    assert weighted.weight.tolist() == pytest.approx([3.2, 1.0, 0.8, 0.0, 0.0])
    assert weighted.weight.mean() == pytest.approx(1.0)
    assert facts == {"by": "margin", "mean_margin": 1.25, "unknown": 1, "not_above_0": 2}
    assert split.weight.tolist() == [1.0] * 5
    assert weighted.subset(np.array([2, 0])).weight.tolist() == pytest.approx([0.8, 3.2])


def test_a_capture_without_margins_is_refused_by_name(tmp_path: Path):
    """A capture of an earlier release has none either."""
    made = planted.plant(tmp_path, prompts=20)
    with pytest.raises(UsageError) as error:
        weighted_by_margin(split_pairs(made.capture, 0.2, 0), made.capture)
    assert str(error.value) == (
        f"--weights margin: expected margins in {made.capture.root}, found none; leave --weights out, or run "
        "`sparserm extract --force` on data with a column margin, or with scores of both responses"
    )


def test_margins_that_are_never_above_0_are_refused(tmp_path: Path):
    """No pair would count."""
    made = planted.plant(tmp_path, prompts=20, margins=[-1.0] * 20)
    with pytest.raises(UsageError) as error:
        weighted_by_margin(split_pairs(made.capture, 0.2, 0), made.capture)
    text = "expected a training pair with a margin above 0, found none; leave --weights out"
    assert str(error.value) == f"--weights margin: {text}"


def test_margins_survive_export_and_import(run: planted.Planted, tmp_path: Path):
    """Through HDF5 to the same digest, and into the table for notebooks."""
    export_capture(run.run, tmp_path / "a.h5")
    assert import_capture(tmp_path / "a.h5", tmp_path / "new").digest == run.capture.digest
    assert open_capture(tmp_path / "new").pairs["margin"].tolist() == MARGINS
    export_capture(run.run, tmp_path / "a.npz")
    assert np.load(tmp_path / "a.npz")["pair_margin"].tolist() == MARGINS
