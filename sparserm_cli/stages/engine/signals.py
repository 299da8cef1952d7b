"""Ctrl-C and SIGTERM while units are worked on: the unit in hand is finished, a second signal aborts."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from sparserm_cli.errors import StoppedError


class StopRequest:
    """Whether a signal has asked for an end.

    Args:
        note: told once, when the first signal comes.

    """

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        self.signal_number: int | None = None

    @property
    def requested(self) -> bool:
        """Whether to stop before the next unit."""
        return self.signal_number is not None

    def receive(self, number: int, _frame: FrameType | None) -> None:
        """Remember the first signal; leave at once on the second.

        Raises:
            StoppedError: it is the second signal.

        """
        if self.signal_number is not None:
            raise StoppedError(number, "the unit in hand was given up")
        self.signal_number = number
        self._note("finishing the unit in hand, once more to abort it")

    def check(self, safe: str) -> None:
        """Stop between two units if a signal has come.

        Args:
            safe: what is not lost then, as words.

        Raises:
            StoppedError: it has.

        """
        if self.signal_number is not None:
            raise StoppedError(self.signal_number, safe)


@contextmanager
def finish_unit_in_hand(note: Callable[[str], None]) -> Iterator[StopRequest]:
    """Take Ctrl-C and SIGTERM as a wish to stop after the unit in hand.

    Outside the main thread, where Python allows no signal handlers, nothing changes.
    """
    request = StopRequest(note)
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, request.receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
