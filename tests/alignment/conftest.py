"""What the tests of this room share: a small reward model, and it as a live server."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers import live_server, tiny_run

from sparserm_cli.models.reward_model import RewardModel


@pytest.fixture(scope="session")
def reward(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Path]) -> Path:
    """Fit a linear reward model on a tiny language model."""
    run: Path = tiny_run.tiny_run(tmp_path_factory.mktemp("align"), tiny_model())
    return run / "reward"


@pytest.fixture(scope="session")
def model(reward: Path) -> RewardModel:
    """Load it."""
    return RewardModel.load(reward)


@pytest.fixture(scope="session")
def server(reward: Path) -> Iterator[Any]:
    """Serve it with a key."""
    with live_server.live(reward, key="a-secret-key") as live:
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
