"""Handle Ctrl-C and SIGTERM: the first signal lets the running unit finish, the second aborts it."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from sparserm_cli.errors import StoppedError


class StopRequest:
    """Records whether a signal has requested a stop.

    Args:
        note: called once, when the first signal arrives.

    """

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        self.signal_number: int | None = None

    @property
    def requested(self) -> bool:
        """Whether to stop before the next unit."""
        return self.signal_number is not None

    def receive(self, number: int, _frame: FrameType | None) -> None:
        """Record the first signal; stop at once on the second.

        Raises:
            StoppedError: it is the second signal.

        """
        if self.signal_number is not None:
            raise StoppedError(number, "the unit in hand was given up")
        self.signal_number = number
        self._note("finishing the unit in hand, once more to abort it")

    def check(self, safe: str) -> None:
        """Stop between two units if a signal has arrived.

        Args:
            safe: work that is not lost then, in words.

        Raises:
            StoppedError: a signal has arrived.

        """
        if self.signal_number is not None:
            raise StoppedError(self.signal_number, safe)


@contextmanager
def finish_unit_in_hand(note: Callable[[str], None]) -> Iterator[StopRequest]:
    """Treat Ctrl-C and SIGTERM as a request to stop after the running unit.

    Outside the main thread Python allows no signal handlers, and nothing changes.
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
