"""What the tests of this room share: a small reward model, and it as a live server."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest

from sparserm_cli.models.reward_model import RewardModel

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


@pytest.fixture
def grpo(tiny_model: Callable[..., Path], tmp_path: Path) -> Callable[..., Any]:
    """Give a function that trains a tiny policy by TRL for two steps, and returns the trainer."""
    trl = pytest.importorskip("trl", reason="the extra `align` is not installed: no trl")
    from datasets import Dataset

    def train(reward: Any, columns: Mapping[str, Sequence[Any]], **options: Any) -> Any:
        args = trl.GRPOConfig(
            output_dir=str(tmp_path),
            max_steps=2,
            per_device_train_batch_size=4,
            num_generations=4,
            max_completion_length=6,
            learning_rate=1e-3,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
            seed=0,
        )
        trainer = trl.GRPOTrainer(
            model=str(tiny_model("llama", seed=3)),
            reward_funcs=reward,
            args=args,
            train_dataset=Dataset.from_dict(dict(columns)),
            **options,
        )
        trainer.train()
        assert trainer.state.global_step == 2
        return trainer

    return train
