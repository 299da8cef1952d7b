"""The scores of a file's rows, computed once: what a killed command had found is not found again.

Reads: any shape of rows, `reward/`, the language model. Writes: `scored/`, a log of the scores.
Memory: the model's lower blocks and a window of rows.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from operator import itemgetter
from pathlib import Path
from typing import Any

from sparserm_cli.config import Guards, Note, Progress, ScoreConfig
from sparserm_cli.data.reader import Reader, Reject
from sparserm_cli.data.template import EncodedExample
from sparserm_cli.models.reward import RewardModel
from sparserm_cli.stages.responses import load_reward, responses_reader, windows
from sparserm_cli.store.locks import lock
from sparserm_cli.store.reward import read_reward, reward_path
from sparserm_cli.store.score_log import ScoreLog, refused_row, scored_row, token_fields


@contextmanager
def score_log(config: ScoreConfig, note: Note) -> Iterator[ScoreLog]:
    """Give the log of a file's scores; nobody else scores the file so meanwhile.

    Args:
        config: the options.
        note: told how far the log has come.

    Raises:
        BadInputError: there is no such file, or it is of no known type.
        CorruptStoreError: the reward model is damaged.
        TemporaryError: another process is scoring this file.
        ResourceError: the run directory cannot be written.

    """
    log = ScoreLog(config.run, _identity(config, responses_reader(config, purpose="any")))
    with lock(log.path.parent, f"{log.path.stem}.lock"):
        log.open()
        if log.inputs is not None:
            note(f"all scores are known from {log.path}")
        elif log.last_row:
            note(f"scores up to row {log.last_row:,} are known from {log.path}")
        yield log


def missing_rows(
    log: ScoreLog, config: ScoreConfig, *, progress: Progress, note: Note
) -> Iterator[dict[str, Any]]:
    """Score the rows after the log's last one; each is in the log, and on the disk, before it is yielded.

    Args:
        log: an open log.
        config: the options it was opened with.
        progress: called with rows scored and rows read so far.
        note: told what is worth knowing on the way.

    Raises:
        BadInputError: the file cannot be read as rows.
        IncompatibleError: the reward model was fitted on another model, tokenizer or template.
        ResourceError: disk or device are not to be had.

    """
    if log.inputs is not None:
        return
    known = log.last_row
    refused: list[dict[str, Any]] = []

    def refuse(one: Reject) -> None:
        if one.row > known:
            refused.append(refused_row(one.row, f"{one.field}: {one.reason}".lstrip(": ")))

    reader = responses_reader(config, purpose="any", sink=refuse, after=known)
    model = load_reward(config)
    note(f"scoring with {model.path} in {model.lm.dtype} on {model.lm.device}")
    for window in windows(model, reader, config, progress, known):
        rows = _in_order(scored_window(model, window, config), refused)
        log.append(rows)
        yield from rows
    if refused:
        refused.sort(key=itemgetter("row"))
        log.append(refused)
        yield from refused
    log.finish([one.sha256 for one in reader.inputs], reader.shape)


def scored_window(
    model: RewardModel, window: list[EncodedExample], config: ScoreConfig
) -> list[dict[str, Any]]:
    """Return the rows of a window with their scores, as the log keeps them."""
    how: dict[str, Any] = {"batch_tokens": config.batch_tokens, "deterministic": config.deterministic}
    rewards = model.rewards(window, config, tokens=config.tokens, **how)
    rows = []
    for row, found in zip(window, rewards.split([len(row.responses) for row in window]), strict=True):
        line = scored_row(row.example.row, row.example.id, found.scores, found.ood)
        if config.tokens:
            ids = [response.response_ids for response in row.responses]
            line |= token_fields(ids, found.tokens, str(found.method))
        rows.append(line)
    return rows


def _identity(config: ScoreConfig, reader: Reader) -> dict[str, Any]:
    """Return everything the scores depend on, be it in their last digits.

    Of a data set of the hub only the name is known beforehand.
    """
    return {
        "inputs": [one.sha256 for one in reader.inputs],
        "file": "" if Path(config.file).exists() else config.file,
        "columns": sorted(config.columns),
        "split": config.split,
        "limit": config.limit,
        "on_bad_row": config.on_bad_row,
        "device": config.device,
        "batch_tokens": config.batch_tokens,
        "deterministic": config.deterministic,
        "reward": read_reward(config.reward or reward_path(config.run)).config.lineage.digest,
        "tokens": config.tokens,
        **{guard.name: getattr(config, guard.name) for guard in fields(Guards)},
    }


def _in_order(rows: list[dict[str, Any]], refused: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Put refused rows among scored ones; those after the last wait, since the reader runs ahead."""
    last = rows[-1]["row"]
    early = [one for one in refused if one["row"] < last]
    refused[:] = [one for one in refused if one["row"] > last]
    return sorted([*rows, *early], key=itemgetter("row"))
