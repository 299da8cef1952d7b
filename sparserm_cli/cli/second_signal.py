"""A second Ctrl-C or SIGTERM ends the program at once, whatever it is doing.

Python runs signal handlers between two steps of the main thread. Where that computes in a library for
minutes, or some library swallows the exception that a handler raises, a second Ctrl-C would do nothing. The
kernel's part of the handler writes each signal into a pipe at once, and a thread that reads it counts them.
"""

import os
import signal
import sys
import threading
import time
from typing import NoReturn

GRACE_SECONDS = 1.0
"""Time in seconds in which the main thread may end by itself after the second signal."""
_SHOW_CURSOR = "\x1b[?25h"  # progress bars hide it
_ENDING = {signal.SIGINT, signal.SIGTERM}


def end_at_second_signal() -> None:
    """Watch for signals from now on; call it once, in the main thread."""
    if os.name != "posix":
        return  # signals reach no pipe there
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(read,), name="second-signal", daemon=True).start()


def _watch(pipe: int) -> None:
    """Count the signals that ask for an end."""
    count = 0
    while numbers := os.read(pipe, 64):
        for number in numbers:
            count += number in _ENDING
            if count == 2:
                _end(number)


def _end(number: int) -> NoReturn:
    """Let the main thread leave in good order, and if it does not, leave without it."""
    time.sleep(GRACE_SECONDS)
    cursor = _SHOW_CURSOR if sys.stderr.isatty() else ""
    said = "sparserm: stopped: the work in hand was given up; run the same command again to continue\n"
    os.write(2, (cursor + said).encode())
    os._exit(128 + number)
