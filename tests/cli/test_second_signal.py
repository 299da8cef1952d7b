"""A second Ctrl-C ends the program even where Python does not get to run a handler."""

import signal
import subprocess
import sys
import time

import pytest

STUCK = {
    "a library computes": """
import hashlib
print('at work', flush=True)
hashlib.pbkdf2_hmac('sha256', b'x', b'y', 2**31 - 1)
""",
    "exceptions are swallowed": """
print('at work', flush=True)
while True:
    try:
        time.sleep(60)
    except BaseException:
        pass
""",
    "a lock is waited for": """
import threading
lock = threading.Lock()
lock.acquire()
print('at work', flush=True)
while True:
    try:
        lock.acquire()
    except BaseException:
        pass
""",
}
CODE = """
import signal, time
from sparserm_cli.cli import main, second_signal
second_signal.GRACE_SECONDS = 0.05
def app(**_):
    exec({work!r})
main.app = app
main.main()
"""


@pytest.mark.parametrize("work", STUCK.values(), ids=STUCK)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_row_91_a_second_signal_always_ends_the_program(work: str, number: signal.Signals) -> None:
    """With the exit code of the signal and one line."""
    command = [sys.executable, "-c", CODE.format(work=work)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "at work\n"
        time.sleep(0.3)  # so that it is in the middle of it
        program.send_signal(number)
        time.sleep(0.3)
        assert program.poll() is None
        program.send_signal(number)
        _, said = program.communicate(timeout=30)
    assert program.returncode == 128 + number
    assert (
        said == "sparserm: stopped: the work in hand was given up; run the same command again to continue\n"
    )


def test_row_91_who_leaves_by_himself_is_let_go() -> None:
    """One signal is no reason to hurry."""
    work = "print('at work', flush=True); time.sleep(60)"
    with subprocess.Popen(
        [sys.executable, "-c", CODE.format(work=work)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout is not None
        program.stdout.readline()
        program.send_signal(signal.SIGINT)
        _, said = program.communicate(timeout=30)
    assert program.returncode == 130
    assert said == "sparserm: stopped: SIGINT; run the same command again to continue\n"
