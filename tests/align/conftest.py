"""What the tests of this room share: a small reward model, and it as a live server."""

import sys
from collections.abc import Callable, Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest

from sparserm_cli import RewardModel

spec = spec_from_file_location("sparserm_live", Path(__file__).with_name("live.py"))
assert spec is not None
assert spec.loader is not None
sys.modules["sparserm_live"] = module_from_spec(spec)
spec.loader.exec_module(sys.modules["sparserm_live"])


@pytest.fixture(scope="session")
def reward(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Path]) -> Path:
    """Fit a linear reward model on a tiny language model."""
    tiny_run = run_path(str(Path(__file__).parents[1] / "study" / "tiny_run.py"))["tiny_run"]
    run: Path = tiny_run(tmp_path_factory.mktemp("align"), tiny_model())
    return run / "reward"


@pytest.fixture(scope="session")
def model(reward: Path) -> RewardModel:
    """Load it."""
    return RewardModel.load(reward)


@pytest.fixture(scope="session")
def server(reward: Path) -> Iterator[Any]:
    """Serve it with a key."""
    with sys.modules["sparserm_live"].live(reward, key="a-secret-key") as live:
        yield live
