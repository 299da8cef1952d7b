"""Fitting a reward model again in the run that it came from."""

from pathlib import Path

import numpy as np
import pytest
from helpers import planted_run as planted

from sparserm_cli.analysis.derivation.own_run import OwnRun
from sparserm_cli.config import FitConfig, FrequencyConfig, SelectConfig
from sparserm_cli.stages.fit.fit import fit
from sparserm_cli.stages.frequency.frequency import frequency
from sparserm_cli.stages.select.select import select
from sparserm_cli.store.artifacts.reward import read_reward, reward_path

pytestmark = pytest.mark.slow


def quiet(_done: object = None, _all: object = None) -> None:
    """Neither progress nor notes."""


@pytest.mark.parametrize("plain", [False, True])
def test_a_head_is_fitted_again_as_it_was(tmp_path: Path, *, plain: bool):
    """A plain head is trained from random weights again, another one from its linear head."""
    made = planted.plant(tmp_path, prompts=40)
    frequency(FrequencyConfig(run=tmp_path), progress=quiet, note=quiet)
    select(SelectConfig(run=tmp_path, top_k=2), note=quiet, decoder=made.decoder)
    fit(FitConfig(run=tmp_path, plain=plain, val_fraction=0.2), progress=quiet, note=quiet)
    files = read_reward(reward_path(tmp_path))
    own = OwnRun.find(tmp_path, files)
    assert own is not None
    again = own.fitted(np.ones(4, bool)).final
    assert files.config.plain is plain
    for name, values in files.head.weights.items():
        assert again.weights[name] == pytest.approx(values, abs=1e-4)
