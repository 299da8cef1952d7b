"""Locks on a run directory that outlive no process: one full run, or several workers, never both.

A lock is a file that names its holder. It appears whole and only if it is absent (`storage.create`), so
one of two racers gets it. No flock: network file systems break it.

A dead holder's lock is taken over with no moment in which nobody or two hold it: the successor of a dead
holder is whoever creates `<lock>.<digest of that holder's file>`, which only one can; it then renames its
claim to the lock's own name. A claim counts only if the chain that starts at the lock still leads to it.
"""

import fnmatch
import hashlib
import json
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePath
from typing import NamedTuple

from sparserm_cli.errors import CorruptStoreError, TemporaryError
from sparserm_cli.store.io.fault_points import fault_point
from sparserm_cli.store.io.local_disk import disk_errors
from sparserm_cli.store.io.process_id import ProcessId, is_dead, this_process
from sparserm_cli.store.io.sealed_json import canonical_json
from sparserm_cli.store.io.storage import create, make_folder, names, read_bytes, remove, rename, size_of


class Holder(NamedTuple):
    """The process that a lock file names."""

    process: ProcessId
    run_id: str

    def told(self) -> str:
        """Return the holder as an error shows it."""
        run = f" (run {self.run_id})" if self.run_id else ""
        return f"one on {self.process.host} with pid {self.process.pid}{run}"


def parse_holder(content: bytes) -> Holder | None:
    """Read the content of a lock file; None if it is empty, cut or names no process that there can be."""
    try:
        value = json.loads(content)
        host, boot, pid, ticks, run_id = (value[name] for name in (*ProcessId._fields, "run_id"))
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    texts = all(isinstance(text, str) for text in (host, boot, run_id))
    if not (texts and _is_number(pid, 1, _MOST_PID) and _is_number(ticks, -1, 2**63)):
        return None
    return Holder(ProcessId(host, boot, pid, ticks), run_id)


def _is_number(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


RUN_LOCK = "run.lock"


PLAN_LOCK = "plan.lock"


_WORKER_LOCKS = "worker-*.lock"


_POLL_SECONDS = 0.1
_MOST_PID = 2**31 - 1  # what the kernel's type holds
_MOST_BYTES = 1 << 16


_PATIENCE_SECONDS = 1.0  # how long a lock without content may be one that is just being written


@contextmanager
def run_lock(folder: PurePath, run_id: str = "") -> Iterator[None]:
    """Hold the run directory for a full run: no other full run and no worker may work in it.

    Raises:
        TemporaryError: another run or a worker holds it; names host and pid.
        ResourceError: the directory cannot be written.

    """
    with lock(folder, RUN_LOCK, run_id):
        for name in sorted(fnmatch.filter(names(folder), _WORKER_LOCKS)):
            refuse_if_held(folder / name)
        yield


@contextmanager
def worker_lock(folder: PurePath, rank: int, run_id: str = "") -> Iterator[None]:
    """Hold one worker's rank in the run directory: no full run and no second worker of this rank.

    Raises:
        TemporaryError: a full run or a worker of the same rank is at work; names host and pid.
        ResourceError: the directory cannot be written.

    """
    with lock(folder, f"worker-{rank}.lock", run_id):
        # Both sides first take their own lock and then look at the other's, so one of them always sees.
        refuse_if_held(folder / RUN_LOCK)
        yield


@contextmanager
def plan_lock(folder: PurePath, run_id: str = "", wait_seconds: float = 3600.0) -> Iterator[None]:
    """Hold the right to make the plan; other workers wait until it is there.

    Raises:
        TemporaryError: another worker still holds it after `wait_seconds`.
        ResourceError: the directory cannot be written.

    """
    with lock(folder, PLAN_LOCK, run_id, wait_seconds):
        yield


@contextmanager
def lock(folder: PurePath, name: str, run_id: str = "", wait_seconds: float = 0.0) -> Iterator[None]:
    """Hold the lock file `name` in `folder`.

    Args:
        folder: made if need be.
        name: the file's name.
        run_id: told to whoever finds the lock held.
        wait_seconds: how long to wait for a live holder to end.

    Raises:
        TemporaryError: a live process holds it; names host and pid.
        ResourceError: the folder cannot be written.

    """
    make_folder(folder)
    path = folder / name
    mine = canonical_json({**this_process()._asdict(), "run_id": run_id, "nonce": uuid.uuid4().hex})
    deadline = time.monotonic() + wait_seconds
    with ExitStack() as release:
        with disk_errors(path, len(mine)):
            while (holder := _acquire(path, mine)) is not None:
                if time.monotonic() >= deadline:
                    raise _held(path, holder)
                time.sleep(_POLL_SECONDS)
        release.callback(_release, path, mine)
        fault_point("lock-held")
        yield


def refuse_if_held(path: PurePath) -> None:
    """Raise TemporaryError if a live process holds the lock at `path`."""
    _, content = _end_of_chain(path)
    holder = None if content is None else parse_holder(content)
    if holder is not None:
        raise _held(path, holder)


def _held(path: PurePath, holder: Holder) -> TemporaryError:
    """Return the error for a lock that is held."""
    hint = f"wait for it to end (remove {path.name} only if that machine is gone)"
    return TemporaryError(str(path), "no other run at work", holder.told(), hint)


def _acquire(path: PurePath, mine: bytes) -> Holder | None:
    """Take the lock or return its live holder."""
    while True:
        claim, content = _end_of_chain(path)
        holder = None if content is None else parse_holder(content)
        if holder is not None:
            return holder
        if content is not None or not create(claim, mine):
            continue
        if claim == path:
            return None
        fault_point("lock-claimed")
        if _end_of_chain(path) == (claim, mine):
            dead = list(_chain(path))
            rename(claim, path)
            for old in dead[1:-1]:
                remove(old)
            return None
        remove(claim)


def _chain(path: PurePath) -> Iterator[PurePath]:
    """Yield the lock and the claims that succeed dead holders, up to the first file absent or alive."""
    while True:
        yield path
        content = _content(path)
        if content is None or not _is_stale(content):
            return
        stem = path.name.partition(".lock")[0] + ".lock"
        path = path.with_name(f"{stem}.{hashlib.sha256(content).hexdigest()[:32]}")


def _end_of_chain(path: PurePath) -> tuple[PurePath, bytes | None]:
    """Return the last file of the chain, and its live holder's content or None if the file is not there."""
    end = list(_chain(path))[-1]
    return end, _content(end)


def _content(path: PurePath) -> bytes | None:
    """Return a lock's content, None if it is not there; waits a little for one that is being written.

    Raises:
        CorruptStoreError: what stands there is no lock: a link, a folder, a pipe, or far too large.

    """
    hint = "move it away and run the same command again"
    if isinstance(path, Path) and path.is_symlink():
        raise CorruptStoreError(str(path), "a lock", "a link", hint)
    if size_of(path) > _MOST_BYTES:
        found = f"{size_of(path):,} bytes"
        raise CorruptStoreError(str(path), f"a lock of at most {_MOST_BYTES:,} bytes", found, hint)
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            content = read_bytes(path)
        except FileNotFoundError:
            return None
        if parse_holder(content) is not None or time.monotonic() > deadline:
            return content
        time.sleep(_POLL_SECONDS / 10)


def _is_stale(content: bytes) -> bool:
    """Tell whether the holder is gone; a lock that names none was cut by a crash."""
    holder = parse_holder(content)
    return holder is None or is_dead(holder.process)


def _release(path: PurePath, mine: bytes) -> None:
    """Give the lock back if it is still ours."""
    if _content(path) == mine:
        remove(path)
