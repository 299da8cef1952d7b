"""scored/KEY.jsonl: the scores of a file's rows, logged as they come, so that a killed run loses little.

KEY is a digest of everything that the scores depend on: the file's bytes, the reward model, and the options
that choose rows or change scores. So a log is never stale, and every command that needs the same scores
finds it.

| line | | |
|---|---|---|
| first | MUST | `type`, `version`, and `identity`, the digest of which is KEY |
| of a window | | `window`, its number from 0, and `rows`, computed together, in order; windows in any order |
| of a failed window | MAY | `window`, and `failed`, the reason why it could not be computed |
| last | MUST once all rows are there | `inputs`, digests of the files read, and `shape`, the kind of rows |

| a row's field | | |
|---|---|---|
| row | MUST | its number in the file, from 1 |
| rejected | MUST where it could not be scored | the reason |
| id | MUST where a scored row has one | its own id |
| scores, ood | MUST where it was scored | one number per response; null where the reward model abstains |
| token_ids, token_rewards | MAY | one list per response; rewards are null where the reward model abstains |
| group | MAY | the key of the prompt as 16 hexadecimal digits |
| projections | MAY | base64 of little-endian float32, one row of standardised projections per response |
| parts | MAY | an object per response, name of a part to the part; null where the reward model abstains |
| part_method | MUST with these | as token_method |
| token_method | MUST with token_rewards | `exact`, or `integrated gradients`, which are approximate |

Lines are only appended and synced. A line that a crash has left incomplete is removed at the next opening,
and failed windows are tried again. Memory: one window, and one number per window.
"""

import base64
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import PurePath
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt32

from sparserm_cli.errors import CorruptStoreError
from sparserm_cli.store.io.fault_points import fault_point, operation
from sparserm_cli.store.io.local_disk import disk_errors
from sparserm_cli.store.io.storage import storage_of
from sparserm_cli.store.provenance import content_digest

FOLDER = "scored"
TYPE, VERSION = "scored", 3
_HINT = "remove it and run the command again"


class ScoreLog:
    """The log of one file's scores under one reward model.

    Args:
        run: the run directory. Objects cannot grow, so the log of a run on an object store is in the cache.
        identity: mapping from field to JSON value of everything that the scores depend on.

    Attributes:
        path: path of the log.
        windows: mapping from the number of a window to the offset of its line, in bytes.
        inputs: digests of the files that were read; None while rows are missing.
        shape: kind of the file's rows; empty while rows are missing.

    """

    def __init__(self, run: PurePath, identity: Mapping[str, Any]) -> None:
        self._head = {"type": TYPE, "version": VERSION, "identity": dict(identity)}
        self.path = storage_of(run).log_folder() / FOLDER / f"{content_digest(self._head)[:32]}.jsonl"
        self.windows: dict[int, int] = {}
        self.inputs: list[str] | None = None
        self.shape = ""

    def open(self) -> None:
        """Read which windows the log has, and remove a line that a crash has left incomplete.

        Raises:
            ResourceError: the folder cannot be written.

        """
        storage_of(self.path.parent).make_folder()
        end = 0
        if self.path.exists():
            for line, begin, end in self._whole_lines():  # noqa: B007  # the last end is wanted
                if "rows" in line:
                    self.windows[line["window"]] = begin
                self.inputs, self.shape = line.get("inputs"), line.get("shape", "")
            with disk_errors(self.path, 0), self.path.open("r+b") as file:
                operation("write")
                file.truncate(end)
        if not end:
            self._append(self._head)

    def append(self, window: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add all rows of a window or none, and sync them to the disk.

        Args:
            window: number of the window.
            rows: at least one row, as `scored_row` and `refused_row` return them.

        Raises:
            ResourceError: the disk is full.

        """
        self.windows[window] = self._append({"window": window, "rows": rows})

    def give_up(self, window: int, reason: str) -> None:
        """Record why a window could not be computed; the next run tries it again."""
        self._append({"window": window, "failed": reason})

    def finish(self, inputs: Sequence[str], shape: str) -> None:
        """Record that all rows are there.

        Args:
            inputs: digests of the files that were read.
            shape: kind of the file's rows.

        Raises:
            ResourceError: the disk is full.

        """
        self._append({"inputs": list(inputs), "shape": shape})
        self.inputs, self.shape = list(inputs), shape

    def complete_to(self) -> tuple[int, int]:
        """Return the number of windows before the first gap, and the number of their last row."""
        windows = next(number for number in count() if number not in self.windows)
        return windows, self.read(windows - 1)[-1]["row"] if windows else 0

    def read(self, window: int) -> list[dict[str, Any]]:
        """Return the rows of a window.

        Raises:
            CorruptStoreError: the rows differ from those that were written.

        """
        begin = self.windows[window]
        with self.path.open("rb") as file:
            file.seek(begin)
            line = _object(file.readline())
        if line is None or line.get("window") != window or "rows" not in line:
            where = f"{self.path} (byte {begin})"
            raise CorruptStoreError(where, f"the rows of window {window}", "something else", _HINT)
        return list(line["rows"])

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows in order; raises the errors of `read`."""
        for window in sorted(self.windows):
            yield from self.read(window)

    def _append(self, line: Mapping[str, Any]) -> int:
        """Add a line, sync it to the disk, and return its offset."""
        data = (json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n").encode()
        with disk_errors(self.path, len(data)), self.path.open("ab") as file:
            begin = file.tell()
            operation("write")
            file.write(data)
            file.flush()
            operation("fsync")
            os.fsync(file.fileno())
        fault_point("scores-appended")
        return begin

    def _whole_lines(self) -> Iterator[tuple[dict[str, Any], int, int]]:
        """Yield the lines before the first incomplete one, each with the offsets of its start and end."""
        end = 0
        with self.path.open("rb") as file:
            for data in file:
                line = _object(data)
                if line is None:
                    return
                begin, end = end, end + len(data)
                yield line, begin, end


def scored_row(
    row: int,
    name: str | None,
    scores: Float32[np.ndarray, " responses"],
    ood: Float32[np.ndarray, " responses"],
) -> dict[str, Any]:
    """Return a row as the log keeps it.

    Args:
        row: number of the row in the file, from 1.
        name: the row's own id, if it has one.
        scores: one score per response; NaN becomes null.
        ood: one distance per response.

    """
    line: dict[str, Any] = {"row": row} if name is None else {"row": row, "id": name}
    given = [None if np.isnan(score) else float(score) for score in scores]
    return {**line, "scores": given, "ood": ood.tolist()}


def token_fields(
    ids: Sequence[UInt32[np.ndarray, " _"]],
    rewards: Sequence[Float32[np.ndarray, " _"] | None],
    method: str,
) -> dict[str, Any]:
    """Return the fields of a row about the tokens of its responses.

    Args:
        ids: token ids of each response.
        rewards: one reward per token; None where the reward model abstains.
        method: method by which the rewards were computed.

    """
    parts = [None if values is None else values.tolist() for values in rewards]
    return {"token_ids": [values.tolist() for values in ids], "token_rewards": parts, "token_method": method}


def part_fields(parts: Sequence[Mapping[str, float] | None], method: str) -> dict[str, Any]:
    """Return what a row says of the parts of its responses' scores.

    Args:
        parts: name of a part to the part, for each response; None where the reward model abstains.
        method: how they were computed.

    """
    return {"parts": [None if row is None else dict(row) for row in parts], "part_method": method}


def projection_fields(group: int, x: Float32[np.ndarray, "responses p"]) -> dict[str, Any]:
    """Return what a row says of the projections of its responses.

    Args:
        group: key of its prompt.
        x: standardised projections.

    """
    data = base64.b64encode(x.astype("<f4").tobytes()).decode("ascii")
    return {"group": f"{group:016x}", "projections": data}


def projections_of(
    line: Mapping[str, Any],
) -> tuple[int, Float32[np.ndarray, "responses p"]] | tuple[None, None]:
    """Return the key of a row's prompt and the projections of its responses; None if the log lacks them."""
    if "projections" not in line:
        return None, None
    x = np.frombuffer(base64.b64decode(line["projections"]), "<f4").reshape(len(line["scores"]), -1).copy()
    return int(line["group"], 16), x


def refused_row(row: int, reason: str) -> dict[str, Any]:
    """Return a row that could not be scored: its number from 1, and the reason."""
    return {"row": row, "rejected": reason}


def _object(data: bytes) -> dict[str, Any] | None:
    """Return the JSON object of a line; None if it is truncated or damaged."""
    if not data.endswith(b"\n"):
        return None
    try:
        value = json.loads(data)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
