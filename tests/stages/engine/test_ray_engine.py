"""`--engine ray`: what happens when units or actors fail, or the user stops the run."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from sparserm_cli.config import EngineConfig, ExtractConfig
from sparserm_cli.errors import PartialError, ResourceError, StoppedError, UsageError
from sparserm_cli.stages.engine.open import open_engine
from sparserm_cli.stages.extract.extract import ExtractSummary, extract
from sparserm_cli.store.units.records import Manifest

pytest.importorskip("ray", reason="the extra `ray` is not installed")

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
TESTS = Path(__file__).parents[2]


def quiet(*_: object) -> None:
    """Neither progress nor notes."""


@pytest.fixture
def config(tmp_path, tiny_model):
    """Give a request of some ten units to a model called `tiny`."""
    data, model = tmp_path / "pairs.jsonl", tmp_path / "tiny"
    rows = [{"prompt": f"Question {n}?", "chosen": "yes " * (n % 4 + 1), "rejected": "no"} for n in range(30)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    model.symlink_to(tiny_model("llama"))

    def give(run: str, **options: Any) -> ExtractConfig:
        wanted = {"layer": (1,), "dtype": "float32", "unit_tokens": 40, "batch_tokens": 100} | options
        return ExtractConfig(run=tmp_path / run, data=str(data), model=str(model), **wanted)

    return give


def run(config: ExtractConfig) -> ExtractSummary:
    """Extract quietly."""
    return extract(config, progress=quiet, note=quiet)


def by_ray(config: Any, address: str) -> Any:
    """Ask the same of Ray, in a directory of its own."""
    return replace(config, run=config.run.with_name("ray"), engine="ray", ray_address=address)


def receipts(run: Path) -> list[Path]:
    """Return the receipts of a capture."""
    return list((run / "activations.zarr" / "_sparserm" / "receipts").glob("*.json"))


def test_row_50_ctrl_c_lets_the_actors_finish_their_units(config, cluster):
    """What they have done is safe, and a serial run goes on with it."""
    extract_config = config("alone", unit_tokens=1)
    wanted, main = by_ray(extract_config, cluster), threading.main_thread().ident

    def press() -> None:
        while len(receipts(wanted.run)) < 2:
            time.sleep(0.01)
        signal.pthread_kill(main, signal.SIGINT)

    presser = threading.Thread(target=press, daemon=True)
    presser.start()
    with pytest.raises(StoppedError, match=r"^stopped: \d+ of 60 units are safe; run the same") as caught:
        run(wanted)
    presser.join()
    assert caught.value.exit_code == 130
    safe = len(receipts(wanted.run))
    assert f"{safe} of 60" in str(caught.value)
    rest = run(replace(wanted, engine="serial", ray_address=None))
    assert (rest.computed, rest.digest) == (60 - safe, run(extract_config).digest)


@pytest.fixture
def toys(cluster: str) -> Callable[[str], Any]:
    """Give a function that fills a toy store by actors of a kind; returns the manifest and units computed."""
    toy, kinds = import_module("helpers.toy_units"), import_module("helpers.ray_toys")
    toy.toy_plan(Path("toy.zarr"))
    options = EngineConfig(engine="ray", ray_address=cluster)

    def fill(kind: str) -> tuple[Manifest | None, int]:
        make = partial(getattr(kinds, kind), Path("toy.zarr"))
        with open_engine(options, make, progress=quiet, note=quiet) as engine:
            return engine.fill(toy.toy_store(Path("toy.zarr")), toy.UNITS), engine.computed

    return fill


def test_row_53_a_unit_that_kills_its_actor_is_given_up_and_repeated_by_the_next_run(toys):
    """The others are done, exit 7 names the unit; the next run computes that one alone."""
    with pytest.raises(PartialError, match=r"1 failed, the first is unit 1 with its worker died") as caught:
        toys("Failing")
    assert caught.value.exit_code == 7
    Path("mended").touch()
    manifest, computed = toys("Failing")
    assert manifest is not None
    assert computed == 1


def test_an_actors_error_is_the_commands(toys):
    """What would end a serial run ends this one, in the same words."""
    with pytest.raises(ResourceError, match=r"^the disk: expected 4 bytes free, found 3; make room$"):
        toys("FullDisk")


def test_actors_that_never_start_are_not_started_for_ever(toys):
    """Three in a row, then the error names what Ray says."""
    with pytest.raises(
        ResourceError, match="--engine ray: expected an actor that starts, found its worker died"
    ):
        toys("Stillborn")


def test_row_51_sigterm_ends_the_command_with_143_and_a_cluster_of_its_own(config, monkeypatch):
    """Without an address one is started, of which stderr says one note; stdout is the error as one object."""
    monkeypatch.setenv("PYTHONPATH", f"{TESTS.parent}{os.pathsep}{TESTS}")
    extract_config = config("alone")
    command = [
        sys.executable,
        "-m",
        "sparserm_cli",
        "extract",
        extract_config.data,
        "--model",
        extract_config.model,
    ]
    command += [
        "--layer",
        "1",
        "--unit-tokens",
        "1",
        "--run",
        str(extract_config.run),
        "--engine",
        "ray",
        "--json",
    ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        while process.poll() is None and len(receipts(extract_config.run)) < 2:
            time.sleep(0.01)
        process.terminate()
        out, stderr = process.communicate(timeout=60)
    assert process.returncode == 143, stderr
    assert json.loads(out)["error"]["code"] == 143
    lines = [line for line in stderr.splitlines() if not line.startswith("extract: ")]
    *others, last = [re.split(",| at most", line)[0] for line in lines]
    assert others == [
        f"reading {extract_config.data}",
        f"{extract_config.data}: shape preference: prompt",
        "planned 30 pairs",
        "Ray:",
        "finishing the unit in hand",
    ]
    assert last.startswith(f"sparserm: stopped: {len(receipts(extract_config.run))} of 60 units are safe; ")


def test_no_cluster_at_the_address(config, monkeypatch):
    """Whoever mistypes it is told, exit 6."""
    monkeypatch.setattr("ray.init", lambda **_: (_ for _ in ()).throw(ConnectionError("nobody\nthere")))
    with pytest.raises(
        ResourceError, match=r"^--ray-address: expected a Ray cluster, found nobody there; start"
    ):
        run(by_ray(config("alone"), "127.0.0.1:1"))


def test_options_that_exclude_each_other(config, monkeypatch):
    """Both would share out the units; an address is nothing without Ray; and Ray may not be installed."""
    with pytest.raises(UsageError) as caught:
        config("ray", engine="ray", worker=(0, 2))
    assert str(caught.value) == (
        "--engine ray: expected no --worker beside it, found --worker; leave one of them out"
    )
    with pytest.raises(UsageError) as caught:
        config("ray", ray_address="auto")
    assert str(caught.value) == (
        "--ray-address: expected --engine ray beside it, found serial; give both or neither"
    )
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError) as caught:
        config("ray", engine="ray")
    assert str(caught.value) == (
        "--engine ray: expected the package ray, found none; pip install 'sparserm[ray]'"
    )
