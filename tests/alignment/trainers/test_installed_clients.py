"""The code by which OpenRLHF and verl ask for rewards, from their own wheels, against a live server.

`tests/setup.sh test` fetches the wheels (tests/clients.txt) into the environment's `clients` folder. What
they import besides aiohttp (Ray, DeepSpeed, ...) has no part in asking and is stood in for.
"""

import asyncio
import sys
import zipfile
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from helpers import live_server

from sparserm_cli.alignment.trainers import openrlhf
from sparserm_cli.alignment.trainers.verl import compute_score
from sparserm_cli.models.reward_model import RewardModel

PROMPT = [{"role": "user", "content": "Question 3?"}]
RESPONSES = ["Yes, 3 is good", "no never", "Naïve café 🙂"]
VERL = (
    "ray",
    "ray.actor",
    "omegaconf",
    "tensordict",
    "verl",
    "verl.protocol",
    "verl.single_controller",
    "verl.single_controller.ray",
    "verl.single_controller.ray.base",
    "verl.trainer",
    "verl.trainer.ppo",
    "verl.trainer.ppo.reward",
    "verl.utils",
    "verl.utils.fs",
    "verl.utils.ray_utils",
    "verl.experimental",
    "verl.experimental.reward_loop",
    "verl.experimental.reward_loop.reward_model",
)
"""What verl's worker imports and does not need in order to ask."""
pytestmark = pytest.mark.filterwarnings("ignore")  # other people's code


@pytest.fixture(scope="module")
def expected(model: RewardModel) -> list[float]:
    """Give the scores that `score` writes."""
    return model.score([PROMPT] * 3, RESPONSES).tolist()


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ModuleType]:
    """Give a function that loads one file of a wheel, with stand-ins for other modules."""

    def load(package: str, path: str, **others: Any) -> ModuleType:
        wheels = sorted((Path(sys.prefix) / "clients").glob(f"{package}-*.whl"))
        if not wheels or find_spec("aiohttp") is None:
            pytest.skip(f"no wheel of {package}: tests/setup.sh test fetches it")
        with zipfile.ZipFile(wheels[0]) as wheel:
            (name,) = [file for file in wheel.namelist() if file.endswith(path)]
            wheel.extract(name, tmp_path)
        for other, stand_in in others.items():
            monkeypatch.setitem(sys.modules, other, stand_in)
        spec = spec_from_file_location(path.removesuffix(".py").replace("/", "."), tmp_path / name)
        assert spec is not None
        assert spec.loader is not None
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def url(reward: Path) -> Any:
    """Serve without a key, which these clients cannot send."""
    with live_server.live(reward) as server:
        yield server.url


class Engine:
    """Generates what it is told to, as OpenRLHF's engine does."""

    def __init__(self, ids: list[int]) -> None:
        self.ids = ids

    async def generate(self, *_: Any, **__: Any) -> Any:
        """Return one generation."""
        return SimpleNamespace(
            outputs=[SimpleNamespace(token_ids=self.ids, finish_reason="stop", logprobs=None)]
        )


@pytest.mark.parametrize("way", ["server", "two addresses", "file"])
def test_openrlhf_gets_the_scores_of_score(
    source: Callable[..., ModuleType],
    url: str,
    expected: list[float],
    way: str,
    reward: Path,
    tiny_tokenizer: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its executor generates, decodes and asks: a server, the same named twice, or our function's file."""
    logging = MagicMock()
    module = source(
        "openrlhf",
        "openrlhf/utils/agent.py",
        **{"openrlhf": MagicMock(), "openrlhf.utils": MagicMock(), "openrlhf.utils.logging_utils": logging},
    )
    monkeypatch.setenv(openrlhf.REWARD_VARIABLE, str(reward))
    endpoint = f"{url}/get_reward"
    places = {"server": endpoint, "two addresses": [endpoint, endpoint], "file": openrlhf.__file__}
    executor = module.SingleTurnAgentExecutor(places[way])
    prompt = tiny_tokenizer.apply_chat_template(PROMPT, tokenize=False, add_generation_prompt=True)
    sampling = SimpleNamespace(max_tokens=64, logprobs=None)
    for response, score in zip(RESPONSES, expected, strict=True):
        engine = Engine(tiny_tokenizer(response + "<|im_end|>", add_special_tokens=False)["input_ids"])
        output = asyncio.run(executor.execute(prompt, "label", sampling, 512, tiny_tokenizer, engine))
        np.testing.assert_allclose(output["reward"], [score], atol=1e-4)
        np.testing.assert_allclose(output["scores"], [score], atol=1e-4)
        assert set(output["extra_logs"]) >= {"ood"}


class Batch(list[Any]):
    """One rollout, as verl's DataProto holds it."""

    def __getitem__(self, place: Any) -> Any:
        """Return a part of the same kind, or the rollout."""
        part = super().__getitem__(place)
        return Batch(part) if isinstance(place, slice) else part


def rollout(tokenizer: Any, response: str) -> Batch:
    """Make up a rollout of this response, padded on the right."""
    ids = tokenizer(response, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    padded = torch.tensor(ids + [0] * 5)
    mask = torch.tensor([1] * (3 + len(ids)) + [0] * 5)
    known = {
        "raw_prompt": np.array(PROMPT, dtype=object),
        "data_source": "d",
        "reward_model": {"ground_truth": ""},
        "extra_info": {"prompt": np.array(PROMPT, dtype=object)},
    }
    return Batch(
        [SimpleNamespace(batch={"responses": padded, "attention_mask": mask}, non_tensor_batch=known)]
    )


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_verl_gets_the_scores_of_score_from_the_server(
    source: Callable[..., ModuleType], url: str, expected: list[float], tiny_tokenizer: Any, engine: str
) -> None:
    """Its worker renders the conversation and posts it to what it takes for vLLM or SGLang."""
    path = "verl/experimental/reward_loop/reward_loop.py"
    module = source("verl", path, **{name: MagicMock() for name in VERL})
    worker = module.RewardLoopWorker.__new__(module.RewardLoopWorker)
    worker.reward_router_address = url.removeprefix("http://")
    worker.input_tokenizer = worker.reward_model_tokenizer = tiny_tokenizer
    judge = SimpleNamespace(rollout=SimpleNamespace(name=engine), model_path="any")
    worker.config = SimpleNamespace(reward=SimpleNamespace(reward_model=judge))
    for response, score in zip(RESPONSES, expected, strict=True):
        result = asyncio.run(worker.compute_score_disrm(rollout(tiny_tokenizer, response)))
        assert result["reward_score"] == pytest.approx(score, abs=1e-4)


def test_verl_gets_the_scores_of_score_from_the_function(
    source: Callable[..., ModuleType], url: str, expected: list[float], tiny_tokenizer: Any
) -> None:
    """Its manager decodes the rollout and calls ours."""
    base = SimpleNamespace(RewardManagerBase=type("Base", (), {"__init__": lambda *_: None}))
    stand_ins = {
        "verl": MagicMock(),
        "verl.experimental": MagicMock(),
        "verl.experimental.reward_loop": MagicMock(),
        "verl.experimental.reward_loop.reward_manager": SimpleNamespace(
            register=lambda _name: lambda kind: kind
        ),
        "verl.experimental.reward_loop.reward_manager.base": base,
        "verl.utils": MagicMock(),
        "verl.utils.reward_score": MagicMock(),
    }
    path = "verl/experimental/reward_loop/reward_manager/naive.py"
    manager = source("verl", path, **stand_ins).NaiveRewardManager(
        None, tiny_tokenizer, partial(compute_score, reward=url)
    )
    manager.tokenizer = tiny_tokenizer

    async def run(response: str) -> Any:
        manager.loop = asyncio.get_running_loop()
        return await manager.run_single(rollout(tiny_tokenizer, response))

    for response, score in zip(RESPONSES, expected, strict=True):
        result = asyncio.run(run(response))
        assert result["reward_score"] == pytest.approx(score, abs=1e-4)
        assert result["reward_extra_info"]["scored"] == 1.0
