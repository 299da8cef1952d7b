"""The crash loop: killed anywhere and resumed, a run ends with the digests and bytes of a usual one."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from helpers import captures, crash_driver

from sparserm_cli.store.capture.reader import ActivationsReader
from sparserm_cli.store.capture.writer import ActivationsWriter
from sparserm_cli.store.io.atomic import sweep
from sparserm_cli.store.units.integrity import check

pytestmark = pytest.mark.slow

DRIVER = Path(crash_driver.__file__)
SAMPLE = 61
"""Every so many file operations are killed in the quick test; all of them in the slow one."""
POINTS = (
    "table",
    "plan-rows-written",
    "plan-before",
    "plan-written",
    "plan-before-rename",
    "plan-renamed",
    "unit-started",
    "unit-written",
    "unit-read-back",
    "receipt-written",
    "manifest-before",
    "manifest-written",
    "lock-held",
)
"""Every named point that a run passes."""
UNIT_POINTS = ("unit-written", "receipt-written", "manifest-written")


def drive(*arguments: object, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the driver."""
    return subprocess.run(
        [sys.executable, str(DRIVER), *map(str, arguments)],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )


def drive_faults(tmp_path: Path, faults: list[str]) -> list[int]:
    """Pass each fault and resume, in two processes; return how the faulty runs ended."""
    command = [sys.executable, str(DRIVER), "faults"]
    halves = [
        subprocess.Popen([*command, str(tmp_path / f"half{i}"), *faults[i::2]], stdout=subprocess.PIPE)
        for i in range(2)
    ]
    outcomes = [json.loads(half.communicate()[0]) for half in halves]
    assert [outcome["problems"] for outcome in outcomes] == [[], []]
    return [code for outcome in outcomes for code in outcome["codes"]]


def passed(tmp_path: Path) -> Counter[str]:
    """Return how often an undisturbed run passes each point."""
    trace = tmp_path / "trace"
    (tmp_path / "traced").mkdir()
    assert drive("run", tmp_path / "traced", SPARSERM_FAULT_TRACE=str(trace)).returncode == 0
    return Counter(trace.read_text().splitlines())


def test_row_01_row_02_row_03_row_04_row_05_killed_at_every_named_point(tmp_path: Path):
    """SIGKILL at the last pass of every named point and at the first of a unit's, then the same again."""
    times = passed(tmp_path)
    operations = {"operation", "read", "write", "fsync", "rename", "mkdir", "mark", "link", "remove"}
    assert set(times) == {*POINTS, *operations}
    faults = [
        f"SPARSERM_FAULT={name}:{n}"
        for name in POINTS
        for n in sorted({times[name], 1 if name in UNIT_POINTS else times[name]})
    ]
    assert drive_faults(tmp_path, faults) == [-9] * len(faults)


def test_row_05_small_artifacts_killed_before_every_file_operation(tmp_path: Path):
    """frequency.parquet, directions/ and reward/ are the old ones or the new ones, whole."""
    done = drive("small", tmp_path)
    assert done.returncode == 0, done.stderr
    outcomes = json.loads(done.stdout)
    assert {name: outcome["problems"] for name, outcome in outcomes.items()} == {
        "frequency": [],
        "directions": [],
        "reward": [],
    }
    assert all(outcome["trials"] > 3 and outcome["versions"] == 2 for outcome in outcomes.values())


def crash_loop(tmp_path: Path, step: int) -> int:
    """Kill before every `step`-th file operation, in two processes, and return the number of trials."""
    command = [sys.executable, str(DRIVER), "crash"]
    loops = [
        subprocess.Popen(
            [*command, str(tmp_path / str(half)), str(1 + half * step), str(2 * step)], stdout=subprocess.PIPE
        )
        for half in range(2)
    ]
    outcomes = [json.loads(loop.communicate()[0]) for loop in loops]
    assert [outcome["problems"] for outcome in outcomes] == [[], []]
    return sum(outcome["trials"] for outcome in outcomes)


def test_row_01_row_02_row_03_row_04_row_05_killed_before_a_sample_of_file_operations(tmp_path: Path):
    """A kill, a resume and a comparison for every 61st operation of about 500."""
    assert crash_loop(tmp_path, SAMPLE) > 6


@pytest.mark.slow
def test_row_01_row_02_row_03_row_04_row_05_killed_before_every_file_operation(tmp_path: Path):
    """The whole loop: no operation is safe from it."""
    times = passed(tmp_path)
    assert crash_loop(tmp_path, 1) == times["operation"]


@pytest.mark.parametrize("every", [185, 240])
def test_a_run_killed_again_and_again_gets_through(tmp_path: Path, every: int):
    """Killed after every so many operations, a run makes progress each time and ends as usual."""
    run, kills = tmp_path / "run", 0
    while (code := drive("run", run, SPARSERM_FAULT_OP=str(every)).returncode) != 0:
        assert code == -9
        kills += 1
        assert kills < 20
    assert kills > 1
    usual = captures.capture(tmp_path / "usual", layers=(1,), hook_names=("blocks.1.hook_resid_post",))
    assert ActivationsReader(run / "activations.zarr").digest == ActivationsReader(usual).digest


def test_row_07_a_disk_that_fills_up_anywhere(tmp_path: Path):
    """ENOSPC from the n-th operation of a kind on: exit 6, receipts kept, and with room the run goes on."""
    times = passed(tmp_path)
    kinds = ("write", "fsync", "rename", "mkdir", "mark", "link")
    faults = [
        f"SPARSERM_FAULT_ERROR={kind}:{n}"
        for kind in kinds
        for n in sorted({1, times[kind] // 2, times[kind]})
    ]
    assert set(drive_faults(tmp_path, faults)) == {6}


def test_two_workers_one_of_them_killed_and_restarted(tmp_path: Path):
    """Rank 0 dies with its unit written but no receipt; restarted, the digest is that of one process."""
    usual = ActivationsReader(captures.capture(tmp_path / "usual")).digest
    run = tmp_path / "run"
    captures.plan(run / "activations.zarr")
    killed = drive("worker", run, 0, 2, SPARSERM_FAULT="unit-written:2")
    assert killed.returncode == -9
    assert drive("worker", run, 1, 2).returncode == 0
    assert ActivationsWriter(run / "activations.zarr").store.pending() == [2]
    again = drive("worker", run, 0, 2)
    assert again.returncode == 0, again.stderr
    reader = ActivationsReader(run / "activations.zarr")
    assert reader.digest == usual
    assert check(reader.store, deep=True) == []
    computed = (run / "computed.log").read_text().splitlines()
    assert Counter(unit for unit in computed if unit.startswith("act")) == {
        "activations 0": 1,
        "activations 1": 1,
        "activations 2": 2,
    }


def test_row_08_a_second_run_stops_with_75(tmp_path: Path):
    """While one process holds the run, another names it and stops."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        result = drive("run", tmp_path)
        holder.kill()
    assert result.returncode != 0
    assert f"with pid {holder.pid} (run r1)" in result.stderr
    assert "TemporaryError" in result.stderr
    assert drive("run", tmp_path).returncode == 0


HOLD = """
import sys, time
from pathlib import Path
from sparserm_cli.store.run.locks import run_lock
with run_lock(Path(sys.argv[1]), "r1"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_row_06_everything_is_on_the_disk_before_what_vouches_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """At each rename the file was synced; at a receipt's, the data's folders too; a plan only whole."""
    synced: set[int] = set()
    folders: dict[Path, bool] = {}  # whether a folder's names are on the disk
    fsync, rename = os.fsync, Path.rename

    def note_fsync(handle: int) -> None:
        fsync(handle)
        synced.add(os.fstat(handle).st_ino)
        path = Path(f"/proc/self/fd/{handle}").readlink()
        if path.is_dir():
            folders[path] = True

    def note_rename(source: Path, target: Path) -> Path:
        inside = [path for path in source.rglob("*") if path.is_file()] if source.is_dir() else [source]
        in_plan = any(".part" in parent.name for parent in target.parents)
        assert in_plan or {path.stat().st_ino for path in inside} <= synced
        if target.parent.name == "receipts" or target.name == "MANIFEST.json":
            assert all(folders.values()), "the names of data files are synced before their receipt"
        folders[target.parent.resolve()] = in_plan
        return rename(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(Path, "rename", note_rename)
    captures.encoding(tmp_path)
    assert all(folders.values())
    assert len(folders) > 20


def test_sweeping_leaves_a_finished_run_alone(tmp_path: Path):
    """There is nothing to sweep after an undisturbed run."""
    captures.encoding(tmp_path)
    assert sweep(tmp_path, everything=True) == []
