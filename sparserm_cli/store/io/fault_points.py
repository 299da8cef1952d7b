"""Fault points, at which a test may kill the process or fill the disk to prove that no data are lost.

Without the environment variables below, a fault point does nothing. They are read at every pass.

- `SPARSERM_FAULT=name[:n]`: send SIGKILL to this process at the n-th pass of the point `name` (default 1).
- `SPARSERM_FAULT_OP=n`: send SIGKILL to this process before its n-th write, sync, rename or removal.
- `SPARSERM_FAULT_ERROR=name[:n[:ERRNO]]`: from the n-th pass of `name` on, raise OSError (default ENOSPC).
- `SPARSERM_FAULT_TRACE=file`: append the name of every point passed, so that a test can list them.
"""

import errno
import os
import signal
import threading
from collections import Counter
from pathlib import Path

ANY_OPERATION = "operation"

_VARIABLES = ("SPARSERM_FAULT", "SPARSERM_FAULT_OP", "SPARSERM_FAULT_ERROR", "SPARSERM_FAULT_TRACE")

_lock = threading.Lock()
_passed: Counter[str] = Counter()


def active() -> bool:
    """Return whether an environment variable requests a fault."""
    return any(name in os.environ for name in _VARIABLES)


def fault_point(name: str) -> None:
    """Pass the point `name`; it does nothing unless an environment variable requests a fault here.

    Raises:
        OSError: when `SPARSERM_FAULT_ERROR` names this point.

    """
    if not active():
        return
    with _lock:
        _passed[name] += 1
        count = _passed[name]
    _trace(name)
    wanted, _, nth = os.environ.get("SPARSERM_FAULT", "").partition(":")
    if wanted == name and count == int(nth or 1):
        _kill()
    wanted, *rest = os.environ.get("SPARSERM_FAULT_ERROR", "").split(":")
    if wanted == name and count >= int(rest[0] if rest else 1):
        code = getattr(errno, rest[1]) if len(rest) > 1 else errno.ENOSPC
        raise OSError(code, os.strerror(code), name)


def operation(kind: str) -> None:
    """Pass the points `kind` and `operation` before a change to the disk, and count it."""
    if not active():
        return
    fault_point(kind)
    fault_point(ANY_OPERATION)
    if _passed[ANY_OPERATION] == int(os.environ.get("SPARSERM_FAULT_OP", "0")):
        _kill()


def _trace(name: str) -> None:
    """Append `name` to the trace file, if one is requested."""
    target = os.environ.get("SPARSERM_FAULT_TRACE")
    if target:
        with Path(target).open("a", encoding="utf-8") as out:
            out.write(name + "\n")


def _kill() -> None:
    """End this process as `kill -9` does: no handler runs, nothing is flushed."""
    os.kill(os.getpid(), signal.SIGKILL)
