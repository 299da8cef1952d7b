"""The client side of rendering: one worker renders all templates, and is restarted after it has ended."""

import atexit
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import Any

_WORKER = Path(__file__).with_name("worker.py")


class RenderError(Exception):
    """A template refuses a conversation, or does not finish within its limits."""


@dataclass(frozen=True)
class RenderRequest:
    """A conversation with the arguments of transformers' `apply_chat_template`."""

    template: str
    """The Jinja text of the template."""
    messages: Sequence[Mapping[str, Any]]
    """The turns of the conversation."""
    tokens: Mapping[str, Any]
    """The text of each of the tokenizer's special tokens, by name; templates may use them."""
    tools: Sequence[Any] | None = None
    """Descriptions of the tools that may be called."""
    add_generation_prompt: bool = False
    """Whether the header of a response is written after the turns."""
    continue_final_message: bool = False
    """Whether the last turn is left open so that it can be continued."""


class Renderer:
    """Renders chat templates in a separate process; threads may share one renderer.

    Args:
        seconds: most seconds of processor time that one conversation may take.

    """

    def __init__(self, seconds: float = 5.0) -> None:
        self._seconds, self._lock = seconds, Lock()
        self._process: subprocess.Popen[str] | None = None
        self._owner = 0
        atexit.register(self.close)

    def start(self) -> None:
        """Start the worker if it is not running, without waiting until it is ready."""
        with self._lock:
            self._running()

    def render(self, request: RenderRequest) -> str:
        """Return a conversation as the template renders it.

        Raises:
            RenderError: the template refuses the turns, or takes too long, too much memory or too many
                characters.

        """
        line = json.dumps({**asdict(request), "seconds": self._seconds})
        with self._lock:
            answer = self._ask(line)
        if not answer:
            raise RenderError(f"a template that computes for more than {self._seconds:g} s")
        reply = json.loads(answer)
        if "error" in reply:
            raise RenderError(reply["error"])
        return str(reply["text"])

    def _ask(self, line: str) -> str:
        """Send one line and return the answer; the answer is empty if the worker has ended."""
        process = self._running()
        if process.stdin is None or process.stdout is None:
            raise ValueError("a worker without pipes")
        try:
            process.stdin.write(line + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        except BaseException:  # Ctrl-C: an answer that nobody reads must not become that of the next question
            self._end()
            raise
        if not answer:
            self._end()
        return answer

    def _running(self) -> "subprocess.Popen[str]":
        """Return the worker of this process; a forked process starts its own and shares no pipes."""
        if self._process is None or self._owner != os.getpid():
            # The worker has its own session, so that Ctrl-C reaches this process only.
            self._process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-P", str(_WORKER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                start_new_session=True,
            )
            self._owner = os.getpid()
        return self._process

    def _end(self) -> None:
        """End the worker that this process has started, if there is one."""
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return
        process.kill()
        process.communicate()

    def close(self) -> None:
        """End the worker; the next template starts another."""
        with self._lock:
            self._end()


RENDERER = Renderer()
"""The renderer that all templates of this process share."""
