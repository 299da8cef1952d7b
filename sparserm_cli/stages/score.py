"""`score`: rewards of new responses, one JSON object a line, in the file's order.

Reads: responses, `reward/`, the language model. Writes: `scores.jsonl`, by rename when whole, or stdout.
Memory: the model's lower blocks and a window of rows.
"""

import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from sparserm_cli.config import Note, Progress, ResponsesConfig, ScoreConfig, column_map
from sparserm_cli.data.prepare import encoded_rows
from sparserm_cli.data.reader import Reader
from sparserm_cli.data.shapes import Purpose
from sparserm_cli.data.template import EncodedExample
from sparserm_cli.models.attribution import method_of
from sparserm_cli.models.reward import RewardModel, Rewards
from sparserm_cli.store.files import building_file
from sparserm_cli.store.reward import reward_path
from sparserm_cli.store.scores import score_line, scores_path, token_fields

WINDOW_ROWS = 512
"""Rows computed together; responses to one prompt share it within a window."""


class ScoreSummary(NamedTuple):
    """What `score` has done.

    Fields:
        output: where the scores are, - for stdout.
        shape: what kind of rows the file has.
        read: rows read; `accepted + rejected`.
        accepted: rows scored.
        rejected: rows left out.
        responses: responses scored.
        abstained: responses of these that got no score, being too far from the training responses.
        mean: of the scores; NaN without any.
        std: of the scores.
        token_method: how token rewards were found; None if they were not asked for.
        seconds: spent on reading, computing and writing.
    """

    output: str
    shape: str
    read: int
    accepted: int
    rejected: int
    responses: int
    abstained: int
    mean: float
    std: float
    token_method: str | None
    seconds: float


class ScoredRow(NamedTuple):
    """One row and the rewards of its responses, in its order."""

    row: EncodedExample
    rewards: Rewards

    @property
    def scores(self) -> Float32[np.ndarray, " responses"]:
        """One a response, NaN where the reward model abstains."""
        return self.rewards.scores


def score(config: ScoreConfig, *, progress: Progress, note: Note) -> ScoreSummary:
    """Score the responses of a file.

    Args:
        config: the options.
        progress: called with rows scored and rows read so far.
        note: told what is worth knowing on the way.

    Raises:
        BadInputError: the file cannot be read as rows.
        IncompatibleError: the reward model was fitted on another model, tokenizer or template.
        CorruptStoreError: the reward model is damaged.
        ResourceError: disk or device are not to be had.

    """
    begun = time.monotonic()
    # 1. The file is looked at before the model is loaded, so that a typing mistake costs no waiting.
    reader = responses_reader(config)
    # 2. The reward model checks that everything is as it was at the fit.
    model = load_reward(config)
    note(f"scoring with {model.path} in {model.lm.dtype} on {model.lm.device}")
    # 3. Rows stream through in windows; each line is written as soon as its window is done.
    tally = _Tally()
    output = config.output or str(scores_path(config.run))
    with line_writer(output) as write:
        for scored in scored_rows(model, reader, config, progress):
            example = scored.row.example
            line = score_line(example.row, example.id, scored.scores, scored.rewards.ood)
            write(line | _token_fields(scored) if config.tokens else line)
            tally.add(scored.scores)
    method = method_of(model.head) if config.tokens else None
    if method not in (None, "exact"):
        note(f"token rewards are {method}: approximate, so they add up to the scores only nearly")
    return ScoreSummary(
        output,
        reader.shape,
        reader.read,
        reader.accepted,
        reader.rejected,
        tally.responses,
        tally.abstained,
        tally.mean,
        tally.std,
        method,
        time.monotonic() - begun,
    )


def responses_reader(config: ResponsesConfig, *, purpose: Purpose = "responses", **options: Any) -> Reader:
    """Open the file to score; further options go to the reader as they are.

    Raises:
        BadInputError: there is no such file, or it is of no known type.

    """
    return Reader(
        config.file,
        purpose=purpose,
        columns=column_map(config.columns),
        split=config.split,
        limit=config.limit,
        on_bad_row=config.on_bad_row,
        offline=config.offline,
        **options,
    )


def load_reward(config: ResponsesConfig) -> RewardModel:
    """Load the reward model that the options mean."""
    path = config.reward or reward_path(config.run)
    return RewardModel.load(path, model=config.model, device=config.device, offline=config.offline)


def scored_rows(
    model: RewardModel, reader: Reader, config: ScoreConfig, progress: Progress
) -> Iterator[ScoredRow]:
    """Yield the rows of a reader with their scores, in order."""
    how: dict[str, Any] = {"batch_tokens": config.batch_tokens, "deterministic": config.deterministic}
    for window in windows(model, reader, config, progress):
        found = model.rewards(window, config, tokens=config.tokens, **how)
        parts = found.split([len(row.responses) for row in window])
        yield from map(ScoredRow, window, parts)


def pooled_windows(
    model: RewardModel, reader: Reader, config: ResponsesConfig, progress: Progress
) -> Iterator[tuple[list[EncodedExample], Any]]:
    """Yield windows of tokenised rows with the pooled vectors of their responses."""
    for window in windows(model, reader, config, progress):
        yield (
            window,
            model.pooled(window, batch_tokens=config.batch_tokens, deterministic=config.deterministic),
        )


def windows(
    model: RewardModel, reader: Reader, config: ResponsesConfig, progress: Progress
) -> Iterator[list[EncodedExample]]:
    """Yield tokenised rows, a window of them at a time, which is done when the next is asked for."""
    # The end of a response matters, so nothing is cut: a row that is too long is a bad row.
    rows = encoded_rows(reader, model.template, max_length=model.max_length, too_long=config.on_bad_row)
    done = 0
    while window := list(islice(rows, WINDOW_ROWS)):
        yield window
        done += len(window)
        progress(done, reader.read)


def _token_fields(scored: ScoredRow) -> dict[str, Any]:
    """Return what a line says of the tokens of its responses."""
    ids = [response.response_ids for response in scored.row.responses]
    return token_fields(ids, scored.rewards.tokens, str(scored.rewards.method))


class _Tally:
    """Mean and spread of the scores that stream by, and how many responses got none."""

    def __init__(self) -> None:
        self.responses = self.abstained = 0
        self._total = self._squares = 0.0

    def add(self, scores: Float32[np.ndarray, " n"]) -> None:
        """Count the scores of one row."""
        given = scores[~np.isnan(scores)].astype(np.float64)
        self.responses += len(scores)
        self.abstained += len(scores) - len(given)
        self._total += float(given.sum())
        self._squares += float(np.square(given).sum())

    @property
    def mean(self) -> float:
        """Mean of the scores given; NaN without any."""
        given = self.responses - self.abstained
        return self._total / given if given else math.nan

    @property
    def std(self) -> float:
        """Their standard deviation; NaN without any."""
        given = self.responses - self.abstained
        return max(0.0, self._squares / given - self.mean**2) ** 0.5 if given else math.nan


@contextmanager
def line_writer(output: str) -> Iterator[Callable[[Any], object]]:
    """Give a function that writes one line, to stdout or to a file that appears when it is whole."""

    def writer(file: IO[str]) -> Callable[[Any], object]:
        return lambda line: file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")

    if output == "-":
        yield writer(sys.stdout)
        return
    path = Path(output)
    path.parent.mkdir(parents=True, exist_ok=True)
    with building_file(path) as part, part.open("w", encoding="utf-8") as file:
        yield writer(file)
