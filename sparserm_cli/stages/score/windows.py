"""Compute the scores of a file's rows once: scores that a killed command had computed are not computed again.

Reads: any shape of rows, `reward/`, the language model. Writes: `scored/`, a log of the scores.
Memory: the model's lower blocks and a window of rows.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from functools import cached_property, partial
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from sparserm_cli.config import Note, Progress, ScoreConfig, ScoreLimits
from sparserm_cli.data.chat_template import PromptTemplate
from sparserm_cli.data.example import Reject
from sparserm_cli.data.reader import Reader
from sparserm_cli.data.rendering.row_tokenizer import TokenizedExample
from sparserm_cli.data.splits import group_key
from sparserm_cli.errors import PartialError
from sparserm_cli.models.reward_model import RewardModel
from sparserm_cli.stages.engine.engine import Lost
from sparserm_cli.stages.engine.open import open_engine
from sparserm_cli.stages.score.responses import load_reward, responses_reader, text_windows
from sparserm_cli.store.artifacts.reward import read_reward, reward_folder, reward_path
from sparserm_cli.store.outputs.score_log import (
    ScoreLog,
    part_fields,
    projection_fields,
    refused_row,
    scored_row,
    token_fields,
)
from sparserm_cli.store.run.locks import lock
from sparserm_cli.store.units.unit_store import TRIES
from sparserm_cli.store.units.work_loop import UNIT_ERRORS


@contextmanager
def score_log(config: ScoreConfig, note: Note) -> Iterator[ScoreLog]:
    """Yield the log of a file's scores, locked against other processes that score the same file.

    Args:
        config: the options.
        note: called with how many scores are known already.

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
        elif log.windows:
            note(f"scores up to row {log.complete_to()[1]:,} are known from {log.path}")
        yield log


class Window(NamedTuple):
    """Rows that are scored together."""

    number: int
    """Number of the window, from 0, in the order of the file."""
    rows: list[TokenizedExample]
    """The tokenised rows."""
    refused: list[dict[str, Any]]
    """Rows before the window's last row that could not be scored, in the form of the log."""


class ScoreWorker:
    """Scores windows; the reward model and the language model are loaded for the first one.

    Args:
        config: the options.
        progress: is not used.
        note: is not used.

    """

    def __init__(self, config: ScoreConfig, *, progress: Progress, note: Note) -> None:
        self._config = config

    @cached_property
    def _model(self) -> RewardModel:
        return load_reward(self._config)

    def text(self) -> tuple[PromptTemplate, int, str]:
        """Return the template, the longest prompt with response in tokens, and a note about the scorer."""
        model = self._model
        sentence = f"scoring with {model.path} in {model.lm.dtype} on {model.lm.device}"
        return model.template, model.max_length, sentence

    def score(self, window: Window) -> list[dict[str, Any]] | Lost:
        """Return the scored rows of a window in the form of the log; Lost if only this window fails."""
        try:
            return scored_window(self._model, window.rows, self._config)
        except UNIT_ERRORS as error:
            return Lost(f"{type(error).__name__}: {error}")


def all_rows(
    log: ScoreLog, config: ScoreConfig, *, progress: Progress, note: Note
) -> Iterator[dict[str, Any]]:
    """Yield all rows in order, and score those that the log lacks; each is logged before it is yielded.

    Args:
        log: an open log.
        config: the options that the log was opened with.
        progress: called with rows scored and rows read so far.
        note: called with each message for the user.

    Raises:
        BadInputError: the file cannot be read as rows.
        IncompatibleError: the reward model was fitted on another model, tokenizer or template.
        CorruptStoreError: the log is damaged.
        ResourceError: the disk is full or the device is missing.
        PartialError: some windows failed three times; the others are in the log.
        StoppedError: Ctrl-C or SIGTERM arrived; the windows done are in the log.

    """
    following = 0
    for _ in _fill(log, config, progress, note) if log.inputs is None else range(1):
        while following in log.windows:
            yield from log.read(following)
            following += 1


def _fill(log: ScoreLog, config: ScoreConfig, progress: Progress, note: Note) -> Iterator[None]:
    """Score the windows that the log lacks, and yield after each."""
    first, known = log.complete_to()
    refused: list[dict[str, Any]] = []

    def refuse(reject: Reject) -> None:
        if reject.row > known:
            refused.append(refused_row(reject.row, f"{reject.field}: {reject.reason}".lstrip(": ")))

    reader = responses_reader(config, purpose="any", sink=refuse, after=known, note=note)
    with open_engine(config, partial(ScoreWorker, config), progress=progress, note=note) as engine:
        template, max_length, sentence = engine.ask(ScoreWorker.text)
        note(sentence)
        parts = enumerate(text_windows(template, max_length, reader, config), start=first)
        windows = (Window(number, rows, _before(rows, refused)) for number, rows in parts)
        failed: dict[int, tuple[Window, str]] = {}
        missing: Iterable[Window] = (window for window in windows if window.number not in log.windows)
        done = known
        yield
        for _ in range(TRIES):
            for window, scored in engine.spread(ScoreWorker.score, missing):
                if isinstance(scored, Lost):
                    failed[window.number] = window, scored.reason
                    continue
                failed.pop(window.number, None)
                log.append(window.number, sorted([*scored, *window.refused], key=itemgetter("row")))
                done += len(window.rows)
                progress(done, reader.read)
                yield
            missing = [window for window, _ in failed.values()]
        engine.stop.check(f"{len(log.windows)} windows of rows are safe")
    if failed:
        raise _given_up(log, failed)
    # Rows after the last window that could not be scored end the log.
    if refused:
        log.append(len(log.windows), sorted(refused, key=itemgetter("row")))
        yield
    log.finish([file.sha256 for file in reader.inputs], reader.shape)


def _before(rows: list[TokenizedExample], refused: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return and remove the refused rows before a window's last row; later ones stay."""
    last = rows[-1].example.row
    early = [line for line in refused if line["row"] < last]
    refused[:] = [line for line in refused if line["row"] > last]
    return early


def _given_up(log: ScoreLog, failed: Mapping[int, tuple[Window, str]]) -> PartialError:
    """Record the windows that failed in the log, and return the error that reports them."""
    for number, (_, reason) in failed.items():
        log.give_up(number, reason)
    window, reason = failed[min(failed)]
    first, last = (window.rows[at].example.row for at in (0, -1))
    failures = f"{len(failed)} windows failed, the first is rows {first} to {last} with {reason}"
    hint = "run the command again to repeat only those"
    return PartialError(str(log.path), "the scores of all rows", failures, hint)


def scored_window(
    model: RewardModel, window: list[TokenizedExample], config: ScoreConfig
) -> list[dict[str, Any]]:
    """Return the rows of a window with their scores, in the form of the log."""
    how: dict[str, Any] = {"batch_tokens": config.batch_tokens, "deterministic": config.deterministic}
    groups = model.part_groups(config.part_groups) if config.parts else ()
    rewards = model.rewards(window, config, tokens=config.tokens, groups=groups, **how)
    rows = []
    for row, scored in zip(window, rewards.split([len(row.responses) for row in window]), strict=True):
        line = scored_row(row.example.row, row.example.id, scored.scores, scored.ood)
        if config.tokens:
            ids = [response.response_ids for response in row.responses]
            line |= token_fields(ids, scored.tokens, str(scored.method))
        if config.parts:
            line |= part_fields(scored.parts, str(scored.method))
        if config.projections and scored.projections is not None:
            line |= projection_fields(group_key(row.prompt_text), scored.projections)
        rows.append(line)
    return rows


def _identity(config: ScoreConfig, reader: Reader) -> dict[str, Any]:
    """Return everything that the scores depend on, even if only in their last digits.

    Before a data set of the hub is read, only its name is known.
    """
    # Options that came later are left out where they are not used, so that earlier logs are still found.
    later: dict[str, Any] = {"parts": config.part_groups} if config.parts else {}
    later |= {"group": config.group} if config.group is not None else {}
    return {
        **later,
        "inputs": [file.sha256 for file in reader.inputs],
        "file": "" if Path(config.file).exists() else config.file,
        "columns": sorted(config.columns),
        "split": config.split,
        "limit": config.limit,
        "on_bad_row": config.on_bad_row,
        "device": config.device,
        "batch_tokens": config.batch_tokens,
        "deterministic": config.deterministic,
        "reward": read_reward(reward_folder(config.reward or reward_path(config.run))).config.lineage.digest,
        "tokens": config.tokens,
        **({"projections": True} if config.projections else {}),  # other logs keep the name they had
        **{guard.name: getattr(config, guard.name) for guard in fields(ScoreLimits)},
    }
