"""Every error that a user can meet, and the table of exit codes.

An error states in one line where it happened, what was expected, what was found and what to run next. The
library raises these errors; `cli.main` prints that line and ends with the exit code.
"""

import re
from typing import Self

EXIT_CODES: dict[int, str] = {
    0: "ok",
    2: "usage: an option is unknown, missing or out of range",
    3: "bad input: a data file cannot be read as rows",
    4: "incompatible or stale: an artifact, model or SAE is not the one that was recorded",
    5: "corrupt store: bytes on disk are missing, cut or changed",
    6: "resource: disk, memory, device or port",
    7: "partial: some units failed, the rest is done",
    75: "temporary: try again later (another run holds the lock, hub or object store do not answer)",
    130: "stopped by Ctrl-C",
    143: "stopped by SIGTERM",
}


class SparseRMError(Exception):
    """An error with the four facts that a user needs.

    Args:
        where: the file, line, field, option or unit that is concerned.
        expected: what would have been right.
        found: what was there instead.
        hint: what to do or run next.

    """

    exit_code = 1

    def __init__(self, where: str, expected: str, found: str, hint: str) -> None:
        self.where, self.expected, self.found, self.hint = where, expected, found, hint
        super().__init__(f"{where}: expected {expected}, found {found}; {hint}")

    def carrying(self, options: str) -> "SparseRMError":
        """Return the error with options, such as ` --run mine`, added to the commands in its hint."""
        hint = re.sub(r"`(sparserm [^`]+)`", lambda match: f"`{match[1]}{options}`", self.hint)
        return type(self)(self.where, self.expected, self.found, hint)

    def __reduce__(self) -> tuple[type[Self], tuple[str, str, str, str]]:
        """Support pickling, since exceptions are otherwise rebuilt from their text alone."""
        return type(self), (self.where, self.expected, self.found, self.hint)


class UsageError(SparseRMError):
    """An option or its value is wrong."""

    exit_code = 2


class BadInputError(SparseRMError):
    """A data file or one of its rows cannot be used."""

    exit_code = 3


class IncompatibleError(SparseRMError):
    """Two things that must agree (model, layer, tokenizer, SAE, upstream digest, ...) do not."""

    exit_code = 4


class CorruptStoreError(SparseRMError):
    """Bytes of an artifact are missing, truncated or changed."""

    exit_code = 5


class ResourceError(SparseRMError):
    """Disk space, memory, a device or a port is not available."""

    exit_code = 6


class PartialError(SparseRMError):
    """Some units failed and were recorded; the others are done."""

    exit_code = 7


class TemporaryError(SparseRMError):
    """The same command may succeed later."""

    exit_code = 75


class StoppedError(Exception):
    """A signal requested the end, and the current unit of work was finished; nothing is lost.

    Args:
        signal_number: number of the signal; the exit code is 128 + `signal_number`.
        done: a text that says which work has been saved.

    """

    def __init__(self, signal_number: int, done: str) -> None:
        self.exit_code = 128 + signal_number
        super().__init__(f"stopped: {done}; run the same command again to continue")
