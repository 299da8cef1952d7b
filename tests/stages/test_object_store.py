"""The whole chain with its run on an S3 server: killed, shared by workers, and equal to a run in a folder."""

import json
import os
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path, PurePath
from runpy import run_path

import pytest

from sparserm_cli.config import (
    EncodeConfig,
    EvaluateConfig,
    ExtractConfig,
    FitConfig,
    FrequencyConfig,
    ScoreConfig,
    SelectConfig,
    place,
)
from sparserm_cli.stages import extract as extract_module
from sparserm_cli.stages.encode import encode
from sparserm_cli.stages.extract import extract
from sparserm_cli.stages.fit import fit
from sparserm_cli.stages.frequency import frequency
from sparserm_cli.stages.score import score
from sparserm_cli.stages.select import select
from sparserm_cli.store import remote
from sparserm_cli.store.results import EVALUATION
from sparserm_cli.store.scores import scores_path
from sparserm_cli.store.status import status
from sparserm_cli.store.verify import verify
from sparserm_cli.study.evaluate import evaluate

fitted = sys.modules["sparserm_fitted"]
fixtures = run_path(str(Path(__file__).parents[1] / "models" / "sae_fixtures.py"))
EXTRACT = {"layer": (1,), "dtype": "float32", "unit_tokens": 150, "batch_tokens": 400}


@pytest.fixture
def inputs(tmp_path, tiny_model):
    """Give thirty pairs to train on, ten to evaluate, a model and an SAE, as options name them."""
    sae = fixtures["save_sae"](tmp_path / "sae", fixtures["perfect_sae"](32))
    (tmp_path / "tiny").symlink_to(tiny_model("llama"))  # the name of the SAE's model
    return {
        "data": fitted.write_rows(tmp_path / "pairs.jsonl", fitted.ROWS[:30]),
        "held_out": fitted.write_rows(tmp_path / "held-out.jsonl", fitted.ROWS[30:]),
        "model": str(tmp_path / "tiny"),
        "sae": str(sae),
    }


def captured(inputs: dict[str, str], run: PurePath, **options):
    """Extract in this process."""
    config = ExtractConfig(run=run, data=inputs["data"], model=inputs["model"], **EXTRACT, **options)
    return extract(config, **fitted.QUIET)


def finish(inputs: dict[str, str], run: PurePath) -> None:
    """Run every stage after extract, and what uses the reward model."""
    encode(EncodeConfig(run=run, sae=(inputs["sae"],)), **fitted.QUIET)
    frequency(FrequencyConfig(run=run, val_fraction=0.2), **fitted.QUIET)
    select(SelectConfig(run=run, top_k=6), note=fitted.QUIET["note"])
    fit(FitConfig(run=run, val_fraction=0.2), **fitted.QUIET)
    score(ScoreConfig(run=run, file=inputs["held_out"]), **fitted.QUIET)
    evaluate(EvaluateConfig(run=run, file=inputs["held_out"]), **fitted.QUIET)


def command(inputs: dict[str, str], run: PurePath, *options: str, **environment: str):
    """Start `sparserm extract` in a process of its own."""
    words = ["extract", inputs["data"], "--model", inputs["model"], "--run", str(run), "--layer", "1"]
    words += ["--dtype", "float32", "--unit-tokens", "150", "--batch-tokens", "400", "--json", "--quiet"]
    return subprocess.Popen(
        [sys.executable, "-m", "sparserm_cli", *words, *options],
        env={**os.environ, **environment, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def digests(run: PurePath) -> dict[str, str]:
    """Return the content digest of every artifact."""
    found = status(run)
    assert found.next_command == ""
    return {one.name: one.lineage.digest for one in found.artifacts}


def test_the_whole_chain_on_s3_has_the_digests_of_a_folder(inputs, bucket, tmp_path):
    """Killed in a unit, continued by two workers at once, then every stage; rerun, it is fresh."""
    alone, run = captured(inputs, tmp_path / "run"), place(f"{bucket}/run")
    assert alone.plan.layout.units >= 4
    killed = command(inputs, run, SPARSERM_FAULT="unit-written:2")
    killed.communicate(timeout=300)
    assert killed.returncode == -signal.SIGKILL
    workers = [command(inputs, run, "--worker", f"{rank}/2") for rank in range(2)]
    told = [worker.communicate(timeout=300) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], told
    assert sum(json.loads(out)["units_computed"] for out, _ in told) == alone.plan.layout.units - 1
    again = captured(inputs, run)
    assert (again.fresh, again.digest, again.free) == (True, alone.digest, None)
    finish(inputs, run)
    finish(inputs, tmp_path / "run")
    assert digests(run) == digests(tmp_path / "run")
    assert remote.read(scores_path(run)) == scores_path(tmp_path / "run").read_bytes()
    here, there = (EVALUATION.read(EVALUATION.path(one)) for one in (tmp_path / "run", run))
    assert here == there
    assert verify(run, deep=True).damaged == ()
    assert encode(EncodeConfig(run=run, sae=(inputs["sae"],)), **fitted.QUIET).fresh


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_actors_of_which_one_is_killed_share_a_capture_on_s3(inputs, bucket, tmp_path, monkeypatch):
    """Killed between data and receipt; another tries again; the digest is that of a run in a folder."""
    ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
    alone = captured(inputs, tmp_path / "run")
    here = Path(__file__).parent
    started, folders = ray.init, (here.parents[1], here, here.parent / "store")
    monkeypatch.setattr(ray, "init", lambda **options: started(**options, num_cpus=2))
    # Ray reads it once a process; other tests here join a cluster without a token.
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, folders)))
    monkeypatch.setenv("SPARSERM_TEST_MARKS", str(tmp_path))
    for folder in folders[1:]:
        monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(extract_module, "CaptureWorker", import_module("ray_workers").KilledCapture)
    shared = captured(inputs, place(f"{bucket}/run"), engine="ray")
    assert (tmp_path / "killed").exists()
    assert (shared.state, shared.digest) == ("complete", alone.digest)
