"""The identity of a process: host, boot, pid and start ticks. It shows whether a lock's owner is alive.

The kernel reuses a pid, but not a pid together with its start ticks within one boot; the boot id tells boots
apart. Clocks and modification times are never read. Where `/proc` is absent the boot id is "" and the ticks
are -1, and only the pid is checked.
"""

import hashlib
import os
import re
import socket
from pathlib import Path
from typing import NamedTuple

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_TICKS_FIELD = 19  # field 22 of proc(5) stat, counted from 0 after the command name in brackets
_TOKEN = re.compile(r"(?P<pid>\d+)-(?P<ticks>-?\d+)-(?P<boot>[0-9a-f]{8})-(?P<host>[0-9a-f]{8})")


class ProcessId(NamedTuple):
    """One process of one boot of one host."""

    host: str
    boot: str
    pid: int
    ticks: int


def boot_id() -> str:
    """Return the kernel's id of this boot, or "" where the kernel has none."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def start_ticks(pid: int) -> int:
    """Return the clock ticks after boot at which `pid` started, or -1 without such a process or `/proc`."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return -1
    return int(stat[stat.rindex(b")") + 2 :].split()[_TICKS_FIELD])


def this_process() -> ProcessId:
    """Return the identity of this process."""
    pid = os.getpid()
    return ProcessId(socket.gethostname(), boot_id(), pid, start_ticks(pid))


def is_dead(process: ProcessId) -> bool:
    """Return whether `process` has certainly ended; one on another host counts as alive."""
    if process.host != socket.gethostname():
        return False
    if process.boot != boot_id():
        return True
    if process.ticks >= 0:
        return start_ticks(process.pid) != process.ticks
    if os.name == "nt":
        return False  # on Windows the call below would end the process
    try:
        os.kill(process.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def token(process: ProcessId) -> str:
    """Return a short text that identifies `process` in names of temporary files: `pid-ticks-boot-host`."""
    return f"{process.pid}-{process.ticks}-{_short(process.boot)}-{_short(process.host)}"


def token_is_dead(name: str) -> bool:
    """Return whether the process of a `token` has certainly ended; any other text counts as alive."""
    match = _TOKEN.fullmatch(name)
    if match is None or match["host"] != _short(socket.gethostname()):
        return False
    if match["boot"] != _short(boot_id()):
        return True
    return is_dead(ProcessId(socket.gethostname(), boot_id(), int(match["pid"]), int(match["ticks"])))


def _short(text: str) -> str:
    """Return the first eight hexadecimal digits of the sha256 of `text`."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]
