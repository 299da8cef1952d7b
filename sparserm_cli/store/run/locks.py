"""Locks on a run directory: either one full run or several workers may work in it, never both.

A lock is a file that names its owner process. It is created atomically and only if it is absent
(`Storage.create`), so that one of two competitors gets it. flock is not used, since it is unreliable on
network file systems.

The lock of a dead owner is taken over so that at no moment nobody or two processes hold it. The successor is
the one process that creates the claim `<lock>.<digest of the dead owner's file>`; it then renames its claim
to the name of the lock. A claim is valid only if the chain of claims that starts at the lock leads to it.
"""

import fnmatch
import hashlib
import json
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import PurePath
from typing import NamedTuple

from sparserm_cli.errors import CorruptStoreError, TemporaryError
from sparserm_cli.store.io.fault_points import fault_point
from sparserm_cli.store.io.local_disk import disk_errors
from sparserm_cli.store.io.process_id import ProcessId, is_dead, this_process
from sparserm_cli.store.io.sealed_json import canonical_json
from sparserm_cli.store.io.storage import storage_of


class LockOwner(NamedTuple):
    """The process that a lock file names."""

    process: ProcessId
    run_id: str

    def description(self) -> str:
        """Return the owner as text for an error."""
        run = f" (run {self.run_id})" if self.run_id else ""
        return f"one on {self.process.host} with pid {self.process.pid}{run}"


def parse_owner(content: bytes) -> LockOwner | None:
    """Parse the content of a lock file; None if it is empty, truncated or names an impossible process."""
    try:
        value = json.loads(content)
        host, boot, pid, ticks, run_id = (value[name] for name in (*ProcessId._fields, "run_id"))
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    texts = all(isinstance(text, str) for text in (host, boot, run_id))
    if not (texts and _is_number(pid, 1, _MOST_PID) and _is_number(ticks, -1, 2**63)):
        return None
    return LockOwner(ProcessId(host, boot, pid, ticks), run_id)


def _is_number(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


RUN_LOCK = "run.lock"


PLAN_LOCK = "plan.lock"


_WORKER_LOCKS = "worker-*.lock"


_POLL_SECONDS = 0.1
_MOST_PID = 2**31 - 1  # the largest value of the kernel's type
_MOST_BYTES = 1 << 16


_PATIENCE_SECONDS = 1.0  # a lock without content may still be in the middle of its writing


@contextmanager
def run_lock(folder: PurePath, run_id: str = "") -> Iterator[None]:
    """Lock the run directory for a full run: no other full run and no worker may work in it.

    Raises:
        TemporaryError: another run or a worker holds it; the error names host and pid.
        ResourceError: the directory cannot be written.

    """
    with lock(folder, RUN_LOCK, run_id):
        for name in sorted(fnmatch.filter(storage_of(folder).names(), _WORKER_LOCKS)):
            refuse_if_held(folder / name)
        yield


@contextmanager
def worker_lock(folder: PurePath, rank: int, run_id: str = "") -> Iterator[None]:
    """Lock a worker's rank in the run directory: no full run and no second worker of this rank.

    Raises:
        TemporaryError: a full run or a worker of the same rank is active; the error names host
            and pid.
        ResourceError: the directory cannot be written.

    """
    with lock(folder, f"worker-{rank}.lock", run_id):
        # Run and worker first take their own lock and then check the other's, so at least one notices.
        refuse_if_held(folder / RUN_LOCK)
        yield


@contextmanager
def plan_lock(folder: PurePath, run_id: str = "", wait_seconds: float = 3600.0) -> Iterator[None]:
    """Lock the making of the plan; other workers wait until it exists.

    Raises:
        TemporaryError: another worker still holds it after `wait_seconds`.
        ResourceError: the directory cannot be written.

    """
    with lock(folder, PLAN_LOCK, run_id, wait_seconds):
        yield


@contextmanager
def lock(folder: PurePath, name: str, run_id: str = "", wait_seconds: float = 0.0) -> Iterator[None]:
    """Hold the lock file `name` in `folder` within the context.

    Args:
        folder: folder of the lock, which is created if it is absent.
        name: name of the lock file.
        run_id: id of the run, shown to others that find the lock held.
        wait_seconds: seconds to wait for a live owner to release the lock.

    Raises:
        TemporaryError: a live process holds it; the error names host and pid.
        ResourceError: the folder cannot be written.

    """
    storage_of(folder).make_folder()
    path = folder / name
    mine = canonical_json({**this_process()._asdict(), "run_id": run_id, "nonce": uuid.uuid4().hex})
    deadline = time.monotonic() + wait_seconds
    with ExitStack() as release:
        with disk_errors(path, len(mine)):
            while (owner := _acquire(path, mine)) is not None:
                if time.monotonic() >= deadline:
                    raise _held(path, owner)
                time.sleep(_POLL_SECONDS)
        release.callback(_release, path, mine)
        fault_point("lock-held")
        yield


def refuse_if_held(path: PurePath) -> None:
    """Raise TemporaryError if a live process holds the lock at `path`."""
    _, content = _end_of_chain(path)
    owner = None if content is None else parse_owner(content)
    if owner is not None:
        raise _held(path, owner)


def _held(path: PurePath, owner: LockOwner) -> TemporaryError:
    """Return the error for a lock that a live process holds."""
    hint = f"wait for it to end (remove {path.name} only if that machine is gone)"
    return TemporaryError(str(path), "no other run at work", owner.description(), hint)


def _acquire(path: PurePath, mine: bytes) -> LockOwner | None:
    """Take the lock and return None, or return its live owner."""
    while True:
        claim, content = _end_of_chain(path)
        owner = None if content is None else parse_owner(content)
        if owner is not None:
            return owner
        if content is not None or not storage_of(claim).create(mine):
            continue
        if claim == path:
            return None
        # The claim succeeds a dead owner: it becomes the lock if the chain still leads to it.
        fault_point("lock-claimed")
        if _end_of_chain(path) == (claim, mine):
            dead = list(_chain(path))
            storage_of(claim).rename(path.name)
            for old in dead[1:-1]:
                storage_of(old).remove()
            return None
        storage_of(claim).remove()


def _chain(path: PurePath) -> Iterator[PurePath]:
    """Yield the lock and the claims after dead owners, up to the first absent file or live owner."""
    while True:
        yield path
        content = _content(path)
        if content is None or not _is_stale(content):
            return
        stem = path.name.partition(".lock")[0] + ".lock"
        path = path.with_name(f"{stem}.{hashlib.sha256(content).hexdigest()[:32]}")


def _end_of_chain(path: PurePath) -> tuple[PurePath, bytes | None]:
    """Return the last file of the chain and its content, which is None if the file is absent."""
    end = list(_chain(path))[-1]
    return end, _content(end)


def _content(path: PurePath) -> bytes | None:
    """Return the content of a lock, or None if it is absent; wait briefly for one that is being written.

    Raises:
        CorruptStoreError: the path is a link, a folder or a pipe, or the file is far too large.

    """
    hint = "move it away and run the same command again"
    file = storage_of(path)
    if file.is_link():
        raise CorruptStoreError(str(path), "a lock", "a link", hint)
    if (size := file.size()) > _MOST_BYTES:
        found = f"{size:,} bytes"
        raise CorruptStoreError(str(path), f"a lock of at most {_MOST_BYTES:,} bytes", found, hint)
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            content = file.read_bytes()
        except FileNotFoundError:
            return None
        if parse_owner(content) is not None or time.monotonic() > deadline:
            return content
        time.sleep(_POLL_SECONDS / 10)


def _is_stale(content: bytes) -> bool:
    """Return whether the owner is dead; a crash truncated a lock that names no owner."""
    owner = parse_owner(content)
    return owner is None or is_dead(owner.process)


def _release(path: PurePath, mine: bytes) -> None:
    """Remove the lock if this process still owns it."""
    if _content(path) == mine:
        storage_of(path).remove()
