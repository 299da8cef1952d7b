"""Runs in processes of their own, for tests that kill them. No torch, no model.

`crash_driver.py plan RUN` and `crash_driver.py run RUN` do what stages do: lock, sweep, plan, units and
manifest.
`crash_driver.py object-store URL` does so with the capture on an object store.
`crash_driver.py crash FOLDER FIRST STEP` kills such a run before its n-th file operation, for n = FIRST,
FIRST + STEP, ... until it gets through, resumes it each time, and prints what it found as JSON.
`crash_driver.py faults FOLDER FAULT...` does so for named faults, and `crash_driver.py small FOLDER` for
the small artifacts, which are old or new after any kill.

The trials are forks of one process that has imported all it needs, so that a trial takes milliseconds.
"""

import json
import os
import shutil
import sys
import traceback
from itertools import count
from pathlib import Path
from typing import Any

from helpers import captures
from helpers import small_artifacts as small
from sparserm_cli.errors import SparseRMError
from sparserm_cli.locations import parse_location
from sparserm_cli.store.artifacts.directions import read_directions
from sparserm_cli.store.artifacts.frequency import read_frequency
from sparserm_cli.store.artifacts.reward import read_reward
from sparserm_cli.store.capture.reader import ActivationsReader
from sparserm_cli.store.capture.writer import ActivationsWriter
from sparserm_cli.store.features.plan import plan_features
from sparserm_cli.store.features.reader import FeaturesReader
from sparserm_cli.store.features.writer import FeaturesWriter
from sparserm_cli.store.io.atomic import sweep
from sparserm_cli.store.run.locks import run_lock, worker_lock
from sparserm_cli.store.units.work_loop import work_units

LAYER: dict[str, Any] = {"layers": (1,), "hook_names": ("blocks.1.hook_resid_post",)}
FAULTS = ("SPARSERM_FAULT", "SPARSERM_FAULT_OP", "SPARSERM_FAULT_ERROR", "SPARSERM_FAULT_TRACE")


def plan(run: Path) -> None:
    """Plan the capture unless it is planned."""
    if not (run / "activations.zarr").exists():
        captures.plan(run / "activations.zarr", **LAYER)


def work(run: Path, rank: int = 0, world: int = 1) -> None:
    """Do the capture and then the encoding, noting every unit computed in `computed.log`."""
    log = (run / "computed.log").open("a")
    writer = ActivationsWriter(run / "activations.zarr")

    def capture(unit: int) -> None:
        log.write(f"activations {unit}\n")
        log.flush()
        captures.compute(writer, unit)

    if work_units(writer.store, capture, rank=rank, world=world) is None:
        return
    reader = ActivationsReader(run / "activations.zarr")
    if not (run / "features.zarr").exists():
        plan_features(run / "features.zarr", reader, captures.SAES[:1])
    encoder = FeaturesWriter(run / "features.zarr")

    def encode(unit: int) -> None:
        log.write(f"features {unit}\n")
        log.flush()
        captures.encode_unit(encoder, reader, unit)

    work_units(encoder.store, encode, rank=rank, world=world)


def whole_run(run: Path) -> None:
    """Do everything that is not done."""
    with run_lock(run):
        sweep(run, everything=True)
        plan(run)
        work(run)


def fork(run: Path, what: Any, *args: Any, **faults: str) -> int:
    """Do something in a fork; return its exit code, or minus the signal that ended it."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = 1
    try:
        os.environ.update(faults)
        what(run, *args)
        code = 0
    except SparseRMError as error:
        code = error.exit_code
    except BaseException:  # noqa: BLE001  # a fork may do nothing but end
        traceback.print_exc()
    finally:
        os._exit(code)


def state(run: Path) -> dict[str, Any]:
    """Return the content digests and the bytes of every file that is data, and what should not be there."""
    stores = (ActivationsReader(run / "activations.zarr"), FeaturesReader(run / "features.zarr"))
    files = sorted(path for path in run.rglob("*") if path.is_file())
    data = {
        str(path.relative_to(run)): path.read_bytes() for path in files if path.parent.name != "_sparserm"
    }
    computed = data.pop("computed.log").decode().splitlines()
    data = {name: value.hex() for name, value in data.items() if "/receipts/" not in name}
    return {
        "digests": {store.root.name: store.digest for store in stores},
        "data": data,
        "computed": computed,
    }


def trial(folder: Path, usual: dict[str, Any], **faults: str) -> tuple[int, list[str]]:
    """Run with faults, then without; return the first exit code and how the end is not the usual one."""
    run = folder / "trial"
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir()
    code = fork(run, whole_run, **faults)
    problems = [] if code in (0, -9, 6) else [f"{faults}: ended with {code}"]
    again = fork(run, whole_run)
    if again:
        return code, [*problems, f"{faults}: resumed with {again}"]
    digests = json.loads(forked_state(run))
    for name in ("digests", "data"):
        if digests[name] != usual[name]:
            both = set(digests[name]) | set(usual[name])
            odd = [part for part in sorted(both) if digests[name].get(part) != usual[name].get(part)]
            problems.append(f"{faults}: other {name} {odd}")
    twice = len(digests["computed"]) - len(usual["computed"])
    if twice > 1:
        problems.append(f"{faults}: {twice} units done again")
    return code, problems


def forked_state(run: Path) -> str:
    """Look at a run in a fork, so that this process never starts zarr's threads."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(read)
        with os.fdopen(write, "w") as out:
            json.dump(state(run), out)
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as file:
        text = file.read()
    os.waitpid(pid, 0)
    return text


def usual_state(folder: Path) -> dict[str, Any]:
    """Return the state of an undisturbed run."""
    run = folder / "usual"
    run.mkdir(parents=True)
    assert fork(run, whole_run) == 0
    usual: dict[str, Any] = json.loads(forked_state(run))
    return usual


def crash(folder: Path, first: int, step: int) -> dict[str, Any]:
    """Kill before every n-th file operation."""
    usual = usual_state(folder)
    problems: list[str] = []
    for n in count(first, step):
        code, problems_of_trial = trial(folder, usual, SPARSERM_FAULT_OP=str(n))
        problems += problems_of_trial
        if code == 0:
            return {"problems": problems, "trials": (n - first) // step}
    raise AssertionError("never got through")


def faults(folder: Path, names: list[str]) -> dict[str, Any]:
    """Pass each fault, `VARIABLE=value`, and resume."""
    usual = usual_state(folder)
    problems: list[str] = []
    codes = []
    for name in names:
        variable, _, value = name.partition("=")
        code, problems_of_trial = trial(folder, usual, **{variable: value})
        problems += problems_of_trial
        codes.append(code)
    return {"problems": problems, "codes": codes}


SMALL: dict[str, tuple[Any, Any]] = {
    "frequency": (small.frequency, lambda run: read_frequency(run).lineage.digest),
    "directions": (small.directions, lambda run: read_directions(run).lineage.digest),
    "reward": (small.reward, lambda run: read_reward(run / "reward").config.lineage.digest),
}
"""Name of a small artifact to what writes it and what reads its digest."""


def rewritten(folder: Path, name: str) -> dict[str, Any]:
    """Kill before every n-th file operation while one version takes the place of another."""
    write, read = SMALL[name]
    run, problems = folder / name, []
    run.mkdir(parents=True)
    assert [
        fork(run, step)
        for step in (captures.encoding, *(write_artifact for write_artifact, _ in SMALL.values()))
    ] == [0] * 4
    old = read(run)
    assert fork(run, write, 2) == 0
    new = read(run)
    for n in count(1):
        assert fork(run, write) == 0
        code = fork(run, write, 2, SPARSERM_FAULT_OP=str(n))
        sweep(run, everything=True)
        if read(run) not in ({old, new} if code else {new}) or code not in (0, -9):
            problems.append(f"{name}: killed before operation {n}, ended with {code}")
        if code == 0:
            return {"problems": problems, "trials": n - 1, "versions": len({old, new})}
    raise AssertionError("never got through")


def main() -> None:
    """Do what the arguments say."""
    what, folder, *rest = sys.argv[1:]
    if what == "plan":
        with run_lock(Path(folder)):
            sweep(Path(folder), everything=True)
            plan(Path(folder))
    elif what == "run":
        whole_run(Path(folder))
    elif what == "object-store":
        run = parse_location(folder)
        with run_lock(run):
            captures.plan(run / "activations.zarr")
            writer = ActivationsWriter(run / "activations.zarr")
            work_units(writer.store, lambda unit: captures.compute(writer, unit))
    elif what == "worker":
        with worker_lock(Path(folder), int(rest[0])):
            work(Path(folder), int(rest[0]), int(rest[1]))
    elif what == "crash":
        json.dump(crash(Path(folder), int(rest[0]), int(rest[1])), sys.stdout)
    elif what == "small":
        json.dump({name: rewritten(Path(folder), name) for name in SMALL}, sys.stdout)
    else:
        json.dump(faults(Path(folder), rest), sys.stdout)


if __name__ == "__main__":
    main()
