"""Ctrl-C and SIGTERM between units."""

import os
import signal
import threading

import pytest

from sparserm_cli.errors import StoppedError
from sparserm_cli.stages.engine.signals import finish_unit_in_hand


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_row_50_row_51_first_signal_waits_for_the_unit(number, code):
    """The first signal is remembered, and the check between units stops with the signal's exit code."""
    said = []
    with finish_unit_in_hand(said.append) as stop:
        stop.check("0 of 3 units are safe")
        os.kill(os.getpid(), number)
        with pytest.raises(StoppedError) as caught:
            stop.check("1 of 3 units are safe")
    assert caught.value.exit_code == code
    assert str(caught.value) == "stopped: 1 of 3 units are safe; run the same command again to continue"
    assert said == ["finishing the unit in hand, once more to abort it"]


def test_row_50_second_signal_aborts():
    """Pressing twice does not wait."""
    with finish_unit_in_hand(lambda _text: None):
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(StoppedError) as caught:
            os.kill(os.getpid(), signal.SIGINT)
    assert caught.value.exit_code == 130


def test_handlers_are_put_back():
    """After the units, signals mean again what they meant before."""
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with finish_unit_in_hand(lambda _text: None):
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_other_threads_are_left_alone():
    """A server's worker thread may run a stage; it has no say in signals."""
    before, inside = signal.getsignal(signal.SIGINT), []

    def work():
        with finish_unit_in_hand(lambda _text: None):
            inside.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert inside == [before]
