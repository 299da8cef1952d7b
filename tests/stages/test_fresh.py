"""A stage whose artifact is there, whole and made the same way, does no work: frequency, select, fit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import planted_run as planted

from sparserm_cli.config import FitConfig, FrequencyConfig, SelectConfig
from sparserm_cli.stages.fit import fit
from sparserm_cli.stages.frequency import frequency
from sparserm_cli.stages.select import select

pytestmark = pytest.mark.slow


def quiet(_done: object = None, _all: object = None) -> None:
    """Neither progress nor notes."""


def run_frequency(made: planted.Planted, **options: Any) -> Any:
    """Count."""
    return frequency.frequency(FrequencyConfig(run=made.run, **options), progress=quiet, note=quiet)


def run_select(made: planted.Planted, **options: Any) -> Any:
    """Select."""
    return select.select(
        SelectConfig(run=made.run, **{"top_k": 2, **options}), note=quiet, decoder=made.decoder
    )


def run_fit(made: planted.Planted, **options: Any) -> Any:
    """Fit."""
    config = FitConfig(run=made.run, **{"head": "linear", "loss": "bt", **options})
    return fit.fit(config, progress=quiet, note=quiet)


STAGES: dict[str, tuple[Callable[..., Any], Any, str, dict[str, Any]]] = {
    "frequency": (run_frequency, frequency, "write_frequency", {"unit": "response"}),
    "select": (run_select, select, "write_directions", {"top_k": 3}),
    "fit": (run_fit, fit, "write_reward", {"loss": "bce"}),
}
"""Stage to: how to run it, its module, what it writes with, and other options."""


@pytest.fixture
def made(tmp_path: Path) -> planted.Planted:
    """Give a run with all artifacts."""
    run = planted.plant(tmp_path)
    assert not any(stage(run).fresh for stage, *_ in STAGES.values())
    return run


@pytest.mark.parametrize("name", STAGES)
def test_a_second_call_writes_nothing_and_tells_the_same(
    made: planted.Planted, name: str, monkeypatch: pytest.MonkeyPatch
):
    """What is told is read from the artifact."""
    stage, module, writer, _ = STAGES[name]
    monkeypatch.setattr(module, writer, None)
    again = stage(made)
    assert again.fresh
    if name == "frequency":
        assert (again.left_out, again.frequency.totals.pairs) == (12, 108)
    elif name == "select":
        assert again.directions.layers[3].feature[[0, 2]].tolist() == [planted.GOOD, planted.BAD]
    else:
        assert again.config.lineage.identity["loss"] == "bt"


@pytest.mark.parametrize("name", STAGES)
def test_other_options_and_damage_make_it_anew(made: planted.Planted, name: str):
    """Other options are other content; a damaged artifact is not there."""
    stage, _, _, options = STAGES[name]
    assert not stage(made, **options).fresh
    path = stage(made, **options).path
    file = path if path.is_file() else next(path.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-1])
    assert not stage(made, **options).fresh
    assert stage(made, **options).fresh


def test_other_frequencies_make_select_and_then_fit_work_again(made: planted.Planted):
    """What a stage was made from counts by content: the same numbers again are no change."""
    run_frequency(made, seed=1)
    assert not run_select(made).fresh
    assert not run_fit(made).fresh
    run_frequency(made)
    assert not run_select(made).fresh
