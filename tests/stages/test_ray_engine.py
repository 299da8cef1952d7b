"""`extract --engine ray`: the same digests as a serial run, whatever happens to the actors."""

import json
import os
import signal
import threading
import time
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from sparserm_cli.config import ExtractConfig
from sparserm_cli.errors import PartialError, UsageError
from sparserm_cli.stages import ray_engine
from sparserm_cli.stages.extract import ExtractSummary, extract
from sparserm_cli.store.activations import ActivationsReader
from sparserm_cli.store.checks import check

ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture
def config(tmp_path, tiny_model):
    """Give a request of some ten units."""
    data = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"Question {n}?", "chosen": "yes " * (n % 4 + 1), "rejected": "no"} for n in range(30)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def give(run: str, **options) -> ExtractConfig:
        wanted = {"layer": (1,), "dtype": "float32", "unit_tokens": 40, "batch_tokens": 100} | options
        return ExtractConfig(run=tmp_path / run, data=str(data), model=str(tiny_model("llama")), **wanted)

    return give


@pytest.fixture(autouse=True)
def two_cpus(monkeypatch):
    """Start local clusters as if this machine had two CPUs, whose processes find the package."""
    started = ray.init
    monkeypatch.setattr(ray, "init", lambda **options: started(**options, num_cpus=2))
    folders = [Path(__file__).parents[2], Path(__file__).parent]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, folders)))
    monkeypatch.syspath_prepend(Path(__file__).parent)


def run(config: ExtractConfig) -> ExtractSummary:
    """Extract quietly."""
    return extract(config, progress=lambda _done, _total: None, note=lambda _text: None)


def test_two_actors_of_which_one_is_killed_make_the_capture_of_a_serial_run(config, monkeypatch):
    """The killed one's unit is tried again by another, and its death is no failure of the run."""
    alone = run(config("alone"))
    killed = []
    monkeypatch.setattr(ray_engine, "UnitActor", import_module("ray_actors").SlowActor)

    def kill(folder: Path) -> None:
        while not killed:
            for path in folder.glob("*.pid"):
                os.kill(int(path.read_text()), signal.SIGKILL)
                killed.append(path)
                return
            time.sleep(0.02)

    wanted = config("ray", engine="ray")
    killer = threading.Thread(target=kill, args=(wanted.run,), daemon=True)
    killer.start()
    shared = run(wanted)
    killer.join()
    assert killed
    assert shared.digest == alone.digest
    assert (shared.computed, shared.fresh) == (alone.computed, False)
    reader = ActivationsReader(shared.path)
    assert check(reader.store, deep=True) == []
    assert not (wanted.run / "run.lock").exists()
    again = run(wanted)
    assert (again.fresh, again.digest) == (True, alone.digest)


def test_row_53_a_unit_that_kills_its_actor_is_given_up_and_repeated_by_the_next_run(config, monkeypatch):
    """The others are done, exit 7 names the unit; the next run computes that one alone."""
    monkeypatch.setattr(ray_engine, "UnitActor", import_module("ray_actors").FailingActor)
    wanted = config("ray", engine="ray")
    with pytest.raises(PartialError, match=r"1 failed, the first is unit 1 with its worker died"):
        run(wanted)
    (wanted.run / "mended").touch()
    again = run(wanted)
    assert (again.state, again.computed) == ("complete", 1)
    assert np.isfinite(ActivationsReader(again.path).pooled(1, "mean")).all()


def test_engine_and_worker_exclude_each_other(config):
    """Both would share out the units."""
    with pytest.raises(UsageError) as caught:
        config("ray", engine="ray", worker=(0, 2))
    assert str(caught.value) == (
        "--engine ray: expected neither --worker nor --sae, found --worker; leave one of them out"
    )
