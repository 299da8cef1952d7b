"""scored/KEY.jsonl: the scores of a file's rows as they come, so that a killed run loses little.

KEY is a digest of everything the scores depend on: the file's bytes, the reward model, the options that
choose rows. So a log is never stale, and every command that needs the same scores finds them.

| line | | |
|---|---|---|
| first | MUST | `type`, `version`, and `identity`, the digest of which is KEY |
| of a row | | `row`, then `scores` and `ood`, a number a response, or `rejected`, why; rows ascend |
| last | MUST once all rows are there | `inputs`, the digests of what was read |

Lines are only ever appended and synced. What a crash has cut off at the end is cut away at the next opening.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sparserm_cli.errors import CorruptStoreError
from sparserm_cli.store.files import disk_errors, fault_point, make_folder, operation
from sparserm_cli.store.lineage import content_digest

FOLDER = "scored"
TYPE, VERSION = "scored", 1
_HINT = "remove it and run the command again"


class ScoreLog:
    """The log of one file's scores under one reward model.

    Args:
        run: the run directory.
        identity: field to JSON value of everything the scores depend on.

    Attributes:
        path: the log.
        last_row: number of the last row that is in it; 0 for none.
        inputs: digests of what was read; None while rows are missing.

    """

    def __init__(self, run: Path, identity: Mapping[str, Any]) -> None:
        self._head = {"type": TYPE, "version": VERSION, "identity": dict(identity)}
        self.path = run / FOLDER / f"{content_digest(self._head)[:32]}.jsonl"
        self.last_row = 0
        self.inputs: list[str] | None = None

    def open(self) -> None:
        """Read how far the log has come, and cut away what a crash has left unfinished.

        Raises:
            ResourceError: the folder cannot be written.

        """
        make_folder(self.path.parent)
        end = 0
        if self.path.exists():
            for line, end in self._whole_lines():  # noqa: B007  # the last end is wanted
                self.last_row = line.get("row", self.last_row)
                self.inputs = line.get("inputs")
            with disk_errors(self.path, 0), self.path.open("r+b") as file:
                operation("write")
                file.truncate(end)
        if not end:
            self._append([self._head])

    def append(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Add rows and put them on the disk.

        Raises:
            ResourceError: the disk is full.

        """
        self._append(lines)
        self.last_row = lines[-1]["row"]

    def finish(self, inputs: Sequence[str]) -> None:
        """Note that all rows are there.

        Args:
            inputs: digests of what was read.

        Raises:
            ResourceError: the disk is full.

        """
        self._append([{"inputs": list(inputs)}])
        self.inputs = list(inputs)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the lines of the rows, in order.

        Raises:
            CorruptStoreError: a line is not as it was written.

        """
        end = 0
        for line, end in self._whole_lines():  # noqa: B007  # the last end is wanted
            if "row" in line:
                yield line
        if end != self.path.stat().st_size:
            raise CorruptStoreError(f"{self.path} (byte {end})", "a JSON object", "something else", _HINT)

    def _append(self, lines: Sequence[Mapping[str, Any]]) -> None:
        text = "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in lines)
        data = text.encode()
        with disk_errors(self.path, len(data)), self.path.open("ab") as file:
            operation("write")
            file.write(data)
            file.flush()
            operation("fsync")
            os.fsync(file.fileno())
        fault_point("scores-appended")

    def _whole_lines(self) -> Iterator[tuple[dict[str, Any], int]]:
        """Yield the lines up to the first that is not whole, each with the byte after it."""
        end = 0
        with self.path.open("rb") as file:
            for data in file:
                line = _object(data)
                if line is None:
                    return
                end += len(data)
                yield line, end


def _object(data: bytes) -> dict[str, Any] | None:
    """Return the object that a line spells; None if it is cut or spoilt."""
    if not data.endswith(b"\n"):
        return None
    try:
        value = json.loads(data)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
