"""What every stage does alike: it sweeps, yields to other runs, needs a place to write, reads no clock."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import tiny_run

from sparserm_cli.config import EncodeConfig, ExtractConfig, FitConfig, FrequencyConfig, SelectConfig
from sparserm_cli.errors import ResourceError, TemporaryError
from sparserm_cli.stages.encode.encode import encode
from sparserm_cli.stages.extract.extract import extract
from sparserm_cli.stages.fit.fit import fit
from sparserm_cli.stages.frequency.frequency import frequency
from sparserm_cli.stages.select.select import select
from sparserm_cli.store.io.process_id import this_process, token

QUIET: dict[str, Any] = {"progress": tiny_run.quiet, "note": tiny_run.quiet}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Path]) -> Path:
    """Give a folder with data, model, SAE and a run directory with every artifact."""
    folder = tmp_path_factory.mktemp("stages")
    tiny_run.tiny_run(folder, tiny_model())
    return folder


def again(stage: str, folder: Path, run: Path) -> None:
    """Run one stage on what is there."""
    if stage == "extract":
        model = str(folder / "tiny")
        data = str(folder / "pairs.jsonl")
        config = ExtractConfig(data=data, model=model, layer=(1,), dtype="float32", force=True, run=run)
        extract(config, **QUIET)
    elif stage == "encode":
        encode(EncodeConfig(sae=(str(folder / "sae-1"),), run=run), **QUIET)
    elif stage == "frequency":
        frequency(FrequencyConfig(run=run), **QUIET)
    elif stage == "select":
        select(SelectConfig(top_k=6, run=run), note=tiny_run.quiet)
    else:
        fit(FitConfig(run=run), **QUIET)


def contents(run: Path, stage: str) -> dict[Path, int]:
    """Make room for an encoding, and return what else lies there and when it was written."""
    if stage == "encode":
        shutil.rmtree(run / "features.zarr")
    return {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}


STAGES = ("extract", "encode", "frequency", "select", "fit")


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """Give a copy of the run directory."""
    return shutil.copytree(made / "run", tmp_path / "run")


@pytest.mark.parametrize("stage", ["frequency", "select", "fit"])
def test_row_95_what_a_killed_stage_left_is_swept(made: Path, run: Path, stage: str) -> None:
    """By whichever stage comes next, also by those that work in one piece."""
    dead = token(this_process()._replace(ticks=1))
    left = run / f"pairs.{dead}.0.part"
    left.mkdir()
    (left / "0").write_bytes(b"x")
    again(stage, made, run)
    assert not left.exists()


@pytest.mark.parametrize("stage", STAGES)
def test_row_96_another_run_at_work_is_left_alone(made: Path, run: Path, stage: str) -> None:
    """Whatever it does there."""
    holder = {**this_process()._asdict(), "run_id": "other", "nonce": "0"}
    (run / "run.lock").write_text(json.dumps(holder))
    before = contents(run, stage)
    with pytest.raises(TemporaryError, match=r"run\.lock: expected no other run at work"):
        again(stage, made, run)
    assert contents(run, "") == before


@pytest.mark.parametrize("stage", STAGES)
def test_row_97_a_run_directory_that_cannot_be_written(
    made: Path, run: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Is an error in one line before any work, and nothing in it changes."""
    before = contents(run, stage)
    monkeypatch.setenv("SPARSERM_FAULT_ERROR", "operation:1:EROFS")
    with pytest.raises(ResourceError) as caught:
        again(stage, made, run)
    assert "expected a place to write, found a read-only file system" in str(caught.value)
    assert contents(run, "") == before


def test_row_98_a_clock_that_jumps_changes_nothing(
    made: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thirty years to and fro at every look."""
    path = run / "directions" / "directions.json"
    again("frequency", made, run)
    again("select", made, run)
    before = json.loads(path.read_text())["digest"]
    shutil.rmtree(path.parent)
    (run / "frequency.parquet").unlink()
    looks = []

    def jumping() -> float:
        looks.append(1)
        return 1e9 if len(looks) % 2 else 2e9

    monkeypatch.setattr(time, "time", jumping)
    again("frequency", made, run)
    again("select", made, run)
    assert json.loads(path.read_text())["digest"] == before
