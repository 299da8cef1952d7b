"""Locks: live owners refuse, dead ones are taken over, and of many racers one wins."""

import errno
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from sparserm_cli.errors import CorruptStoreError, ResourceError, TemporaryError
from sparserm_cli.store.io.process_id import boot_id, start_ticks, this_process
from sparserm_cli.store.run import locks

DEAD_PID = 2**22 + 1  # above the kernel's largest pid


def held_by(folder: Path, name: str = "run.lock", **changes: object) -> Path:
    """Write a lock as another process would have left it."""
    path = folder / name
    value = {**this_process()._asdict(), "run_id": "other", "nonce": os.urandom(4).hex(), **changes}
    path.write_text(json.dumps(value))
    return path


def test_row_08_a_live_holder_is_named(tmp_path: Path):
    """The second run stops with exit 75 and says who holds the lock."""
    with locks.run_lock(tmp_path, "first"):
        with pytest.raises(TemporaryError) as error, locks.run_lock(tmp_path, "second"):
            pytest.fail("two runs hold the lock")
        me = this_process()
        assert str(error.value) == (
            f"{tmp_path}/run.lock: expected no other run at work, found one on {me.host} with pid {me.pid} "
            "(run first); wait for it to end (remove run.lock only if that machine is gone)"
        )
        assert error.value.exit_code == 75
    assert list(tmp_path.iterdir()) == []


def test_row_08_a_running_other_process_is_alive(tmp_path: Path):
    """A child that sleeps holds its lock; killed, it no longer does."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as child:
        held_by(tmp_path, pid=child.pid, ticks=start_ticks(child.pid))
        with pytest.raises(TemporaryError, match=f"with pid {child.pid}"), locks.run_lock(tmp_path):
            pytest.fail("taken from a live process")
        child.kill()
        child.wait()
    with locks.run_lock(tmp_path):
        pass


@pytest.mark.parametrize(
    "changes",
    [
        {"pid": DEAD_PID},
        {"boot": "another boot"},
        {"ticks": this_process().ticks + 1},
    ],
    ids=["dead pid", "other boot", "recycled pid"],
)
def test_row_08_a_stale_lock_is_taken_over(tmp_path: Path, changes: dict):
    """Dead pid, other boot of this host, recycled pid: the lock is ours, and nothing is left behind."""
    path = held_by(tmp_path, **changes)
    with locks.run_lock(tmp_path, "mine"):
        assert json.loads(path.read_text())["run_id"] == "mine"
        assert [entry.name for entry in tmp_path.iterdir()] == ["run.lock"]
    assert list(tmp_path.iterdir()) == []


def test_row_08_another_host_counts_as_alive(tmp_path: Path):
    """Whether a process of another machine lives cannot be asked: never taken over."""
    held_by(tmp_path, host="elsewhere", boot="x", pid=DEAD_PID)
    with (
        pytest.raises(TemporaryError, match=f"one on elsewhere with pid {DEAD_PID}"),
        locks.run_lock(tmp_path),
    ):
        pytest.fail("taken from another host")


@pytest.mark.parametrize("content", [b"", b'{"host": "h"', b"[]"])
def test_a_lock_cut_by_a_crash_is_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes):
    """A power loss may leave an empty lock; it does not bar the way for ever."""
    monkeypatch.setattr(locks, "_PATIENCE_SECONDS", 0.05)
    (tmp_path / "run.lock").write_bytes(content)
    with locks.run_lock(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("point", ["lock-claimed", "link", "rename"])
def test_a_taker_killed_half_way_is_itself_taken_over(tmp_path: Path, point: str):
    """The chain of dead owners is followed to its end."""
    held_by(tmp_path, pid=DEAD_PID)
    code = (
        "import sys\nfrom pathlib import Path\nfrom sparserm_cli.store.run.locks import run_lock\n"
        "with run_lock(Path(sys.argv[1])):\n    pass\n"
    )
    for _ in range(2):
        result = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)],
            env={**os.environ, "SPARSERM_FAULT": point},
            check=False,
        )
        assert result.returncode == -9
    with locks.run_lock(tmp_path, "mine"):
        assert json.loads((tmp_path / "run.lock").read_text())["run_id"] == "mine"
    assert not list(tmp_path.glob("*.lock*[!t]"))


@pytest.mark.parametrize("stale", [False, True])
@pytest.mark.parametrize("links", [True, False])
def test_row_08_row_58_of_many_racers_one_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stale: bool, links: bool
):
    """Eight threads race for a free or a stale lock, 30 times: never two inside, and always one."""
    if not links:
        monkeypatch.setattr(Path, "hardlink_to", _no_links)
    inside, most, wins = 0, 0, 0
    guard, gate = threading.Lock(), threading.Barrier(8)

    def race() -> None:
        nonlocal inside, most, wins
        gate.wait()
        try:
            with locks.lock(tmp_path, "run.lock"):
                with guard:
                    inside, wins = inside + 1, wins + 1
                    most = max(most, inside)
                gate_inside.wait(0.02)
                with guard:
                    inside -= 1
        except TemporaryError:
            return

    gate_inside = threading.Event()
    for _ in range(30):
        if stale:
            held_by(tmp_path, pid=DEAD_PID)
        before = wins
        threads = [threading.Thread(target=race) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wins > before
        assert list(tmp_path.iterdir()) == []
    assert most == 1


def _no_links(self: Path, target: Path) -> None:
    """Stand for a file system without hard links."""
    raise PermissionError(1, "no links", str(self), str(target))


def test_a_worker_and_a_full_run_exclude_each_other(tmp_path: Path):
    """Workers of different rank work together; a full run or a second worker of a rank does not join."""
    with locks.worker_lock(tmp_path, 0), locks.worker_lock(tmp_path, 1):
        for second in (locks.run_lock(tmp_path), locks.worker_lock(tmp_path, 1)):
            with pytest.raises(TemporaryError, match="no other run at work"), second:
                pytest.fail("joined")
    with (
        locks.run_lock(tmp_path),
        pytest.raises(TemporaryError, match=r"run\.lock"),
        locks.worker_lock(tmp_path, 0),
    ):
        pytest.fail("joined a full run")
    assert list(tmp_path.iterdir()) == []


def test_the_plan_lock_is_waited_for(tmp_path: Path):
    """A second planner waits until the first one has done."""
    order = []
    started = threading.Event()

    def first() -> None:
        with locks.plan_lock(tmp_path):
            started.set()
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    started.wait()
    with locks.plan_lock(tmp_path, wait_seconds=10.0):
        order.append("second")
    thread.join()
    assert order == ["first", "second"]


def test_row_56_no_clock_decides(tmp_path: Path):
    """A lock whose file says 1970 or 2100 is live all the same: modification times are not read."""
    with locks.run_lock(tmp_path):
        for moment in (0, 4_102_444_800):
            os.utime(tmp_path / "run.lock", (moment, moment))
            with pytest.raises(TemporaryError, match="no other run"), locks.run_lock(tmp_path):
                pytest.fail("taken because of its time")


def test_this_process_is_not_dead():
    """The kernel's boot id and start ticks are there on Linux, and our own."""
    me = this_process()
    assert me.boot == boot_id() != ""
    assert me.ticks == start_ticks(os.getpid()) > 0
    assert start_ticks(DEAD_PID) == -1


@pytest.mark.parametrize(
    ("make", "content"),
    [
        (os.mkfifo, "expected a file, found a pipe"),
        (Path.mkdir, "expected a file, found a folder"),
        (lambda path: path.symlink_to(path.name), "expected a lock, found a link"),
        (lambda path: path.symlink_to("nowhere"), "expected a lock, found a link"),
        (lambda path: path.symlink_to("/dev/zero"), "expected a lock, found a link"),
        (
            lambda path: path.write_bytes(b"[" * 200_000),
            "a lock of at most 65,536 bytes, found 200,000 bytes",
        ),
    ],
    ids=["pipe", "folder", "loop", "dangling link", "endless device", "huge"],
)
def test_row_87_what_is_no_lock_is_refused_at_once(
    tmp_path: Path, make: Callable[[Path], object], content: str
):
    """It is neither waited for, nor read without end, nor taken away."""
    path = tmp_path / "run.lock"
    make(path)
    with pytest.raises(CorruptStoreError) as caught, locks.run_lock(tmp_path):
        pytest.fail("taken")
    assert str(caught.value).startswith(f"{path}: ")
    assert content in str(caught.value)
    assert os.path.lexists(path)


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 60_000,
        b"[1]",
        json.dumps({**this_process()._asdict(), "run_id": "r", "pid": 10**30}).encode(),
        json.dumps({**this_process()._asdict(), "run_id": "r", "pid": -1}).encode(),
        json.dumps({**this_process()._asdict(), "run_id": "r", "pid": 0, "ticks": -1}).encode(),
        b'{"host": "h", "boot": "b", "pid": 1e400, "ticks": 1, "run_id": ""}',
        b'{"host": "h", "boot": "b", "pid": 1, "ticks": "x", "run_id": ""}',
        b'{"host": ["h"], "boot": "b", "pid": 1, "ticks": 1, "run_id": ""}',
    ],
    ids=["deep", "a list", "huge pid", "negative pid", "pid 0", "infinite pid", "text", "no host"],
)  # fmt: skip
def test_row_87_a_holder_that_cannot_be_holds_nothing(
    tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
):
    """No process has such a number; a lock like that was cut or made up, and is taken over."""
    monkeypatch.setattr(locks, "_PATIENCE_SECONDS", 0.0)
    (tmp_path / "run.lock").write_bytes(content)
    with locks.run_lock(tmp_path):
        assert locks.parse_owner((tmp_path / "run.lock").read_bytes()) is not None
    assert list(tmp_path.iterdir()) == []


def test_row_99_a_lock_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A full disk at the very start."""
    monkeypatch.setenv("SPARSERM_FAULT_ERROR", "link:1:ENOSPC")
    with pytest.raises(ResourceError, match="no space left"), locks.run_lock(tmp_path):
        pytest.fail("taken")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("SPARSERM_FAULT_ERROR", "")

    def full(self: Path, data: bytes) -> int:
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ResourceError, match="no space left"), locks.run_lock(tmp_path):
        pytest.fail("taken")
    assert list(tmp_path.iterdir()) == []
