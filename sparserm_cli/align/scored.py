"""The scored rows of a file, for what chooses among responses: computed once, resumed after a crash.

Reads: responses or preference rows, `reward/`, the language model. Writes: `scored/`, a log of the scores.
Memory: the model's lower blocks and a window of rows while scores are missing; then one row.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from sparserm_cli.config import Note, Progress, ResponsesConfig
from sparserm_cli.data.reader import Example, Reader, Reject
from sparserm_cli.errors import IncompatibleError
from sparserm_cli.models.reward import UNGUARDED
from sparserm_cli.stages.score import load_reward, responses_reader, windows
from sparserm_cli.store.locks import lock
from sparserm_cli.store.reward import RewardConfig, read_reward, reward_path
from sparserm_cli.store.score_log import ScoreLog


class Scored(NamedTuple):
    """One row of a file.

    Fields:
        example: the row.
        scores: one a response, in its order.
        ood: how far each is from the training responses.
    """

    example: Example
    scores: Float32[np.ndarray, " responses"]
    ood: Float32[np.ndarray, " responses"]


class Refused(NamedTuple):
    """One row of a file that could not be scored: its number from 1, and why."""

    row: int
    reason: str


class ScoredFile:
    """A file whose rows are all scored.

    Args:
        config: the options.
        reward: what is recorded about the reward model.
        log: the complete log of its scores.

    """

    def __init__(self, config: ResponsesConfig, reward: RewardConfig, log: ScoreLog) -> None:
        self._config, self._log, self.reward = config, log, reward
        self.shape = ""

    def __iter__(self) -> Iterator[Scored | Refused]:
        """Yield every row of the file in order, refused ones too.

        Raises:
            CorruptStoreError: the log is damaged.
            IncompatibleError: the data have changed since they were scored.

        """
        reader = responses_reader(self._config, purpose="any", sink=_ignore)
        examples = iter(reader)
        for line in self._log.rows():
            if "rejected" in line:
                yield Refused(line["row"], line["rejected"])
                continue
            example = next((one for one in examples if one.row >= line["row"]), None)
            scores = np.array(line["scores"], np.float32)
            if example is None or example.row != line["row"] or len(example.responses) != len(scores):
                raise _changed(self._config.file, f"another row {line['row']}")
            self.shape = reader.shape
            yield Scored(example, scores, np.array(line["ood"], np.float32))
        for _ in examples:  # rows that were refused after they had been read
            pass
        if [one.sha256 for one in reader.inputs] != self._log.inputs:
            raise _changed(self._config.file, "another content")


def score_file(config: ResponsesConfig, *, progress: Progress, note: Note) -> ScoredFile:
    """Score all rows of a file that the log does not hold yet.

    Args:
        config: the options.
        progress: called with rows scored and rows read so far.
        note: told what is worth knowing on the way.

    Raises:
        BadInputError: the file cannot be read as rows.
        IncompatibleError: the reward model was fitted on another model, tokenizer or template.
        CorruptStoreError: the reward model is damaged.
        TemporaryError: another process is scoring this file.
        ResourceError: disk or device are not to be had.

    """
    reward = read_reward(config.reward or reward_path(config.run)).config
    log = ScoreLog(config.run, _identity(config, reward, responses_reader(config, purpose="any")))
    with lock(log.path.parent, f"{log.path.stem}.lock"):
        log.open()
        if log.inputs is not None:
            note(f"all scores are known from {log.path}")
            return ScoredFile(config, reward, log)
        if log.last_row:
            note(f"scores up to row {log.last_row:,} are known from {log.path}")
        _fill(log, config, progress, note)
    return ScoredFile(config, reward, log)


def _identity(config: ResponsesConfig, reward: RewardConfig, reader: Reader) -> dict[str, Any]:
    """Return everything the scores depend on. Of a data set of the hub only the name is known beforehand."""
    return {
        "inputs": [one.sha256 for one in reader.inputs],
        "file": "" if Path(config.file).exists() else config.file,
        "columns": sorted(config.columns),
        "split": config.split,
        "limit": config.limit,
        "on_bad_row": config.on_bad_row,
        "deterministic": config.deterministic,
        "reward": reward.lineage.digest,
    }


def _fill(log: ScoreLog, config: ResponsesConfig, progress: Progress, note: Note) -> None:
    """Score the rows after the log's last one; every window is safe on the disk before the next."""
    refused: list[Reject] = []
    known = log.last_row

    def refuse(one: Reject) -> None:
        if one.row > known:
            refused.append(one)

    reader = responses_reader(config, purpose="any", sink=refuse, after=known)
    model = load_reward(config)
    note(f"scoring with {model.path} in {model.lm.dtype} on {model.lm.device}")
    how: dict[str, Any] = {"batch_tokens": config.batch_tokens, "deterministic": config.deterministic}
    for window in windows(model, reader, config, progress):
        rewards = model.rewards(window, UNGUARDED, **how)
        lines = []
        for row, found in zip(window, rewards.split([len(row.responses) for row in window]), strict=True):
            lines += _refused_before(refused, row.example.row)
            lines.append({"row": row.example.row, "scores": found.scores.tolist(), "ood": found.ood.tolist()})
        log.append(lines)
    if last := _refused_before(refused, None):
        log.append(last)
    log.finish([one.sha256 for one in reader.inputs])


def _refused_before(refused: list[Reject], row: int | None) -> list[dict[str, Any]]:
    """Take the lines of rows refused before `row`, all if None: the reader runs ahead of the scores."""
    refused.sort(key=lambda one: one.row)
    count = sum(row is None or one.row < row for one in refused)
    taken, refused[:] = refused[:count], refused[count:]
    return [{"row": one.row, "rejected": f"{one.field}: {one.reason}".lstrip(": ")} for one in taken]


def _ignore(_reject: Reject) -> None:
    """Let a refused row go: the log tells it."""


def _changed(file: str, found: str) -> IncompatibleError:
    return IncompatibleError(file, "the data that were scored", found, "leave it as it is and run again")
