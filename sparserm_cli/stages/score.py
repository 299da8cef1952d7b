"""`score`: rewards of new responses, one JSON object a line, in the file's order.

Reads: responses, `reward/`, the language model. Writes: `scores.jsonl`, by rename when whole, or stdout.
Memory: the model's lower blocks and a window of rows.
"""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from sparserm_cli.config import Note, Progress, ScoreConfig, column_map
from sparserm_cli.data.prepare import encoded_rows
from sparserm_cli.data.reader import Reader
from sparserm_cli.data.template import EncodedExample
from sparserm_cli.models.reward import RewardModel
from sparserm_cli.store.files import building_file
from sparserm_cli.store.reward import reward_path
from sparserm_cli.store.scores import score_line, scores_path

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
        mean: of the scores.
        std: of the scores.
        seconds: spent on reading, computing and writing.
    """

    output: str
    shape: str
    read: int
    accepted: int
    rejected: int
    responses: int
    mean: float
    std: float
    seconds: float


class ScoredRow(NamedTuple):
    """One row and the scores of its responses, in its order."""

    row: EncodedExample
    scores: np.ndarray


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
    count, total, squares = 0, 0.0, 0.0
    output = config.output or str(scores_path(config.run))
    with _destination(output) as write:
        for scored in scored_rows(model, reader, config, progress):
            example = scored.row.example
            write(score_line(example.row, example.id, scored.scores))
            count += len(scored.scores)
            total += float(scored.scores.sum(dtype=np.float64))
            squares += float(np.square(scored.scores, dtype=np.float64).sum())
    mean = total / count
    std = max(0.0, squares / count - mean**2) ** 0.5
    seconds = time.monotonic() - begun
    return ScoreSummary(
        output, reader.shape, reader.read, reader.accepted, reader.rejected, count, mean, std, seconds
    )


def responses_reader(config: ScoreConfig, *, purpose: Any = "responses") -> Reader:
    """Open the file to score.

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
    )


def load_reward(config: ScoreConfig) -> RewardModel:
    """Load the reward model that the options mean."""
    path = config.reward or reward_path(config.run)
    return RewardModel.load(path, model=config.model, device=config.device, offline=config.offline)


def scored_rows(
    model: RewardModel, reader: Reader, config: ScoreConfig, progress: Progress
) -> Iterator[ScoredRow]:
    """Yield the rows of a reader with their scores, in order."""
    for window, vectors in pooled_windows(model, reader, config, progress):
        scores = iter(model.scores_of(vectors, deterministic=config.deterministic))
        for row in window:
            yield ScoredRow(row, np.array(list(islice(scores, len(row.responses))), dtype=np.float32))


def pooled_windows(
    model: RewardModel, reader: Reader, config: ScoreConfig, progress: Progress
) -> Iterator[tuple[list[EncodedExample], Any]]:
    """Yield windows of tokenised rows with the pooled vectors of their responses."""
    # The end of a response matters, so nothing is cut: a row that is too long is a bad row.
    rows = encoded_rows(reader, model.template, max_length=model.max_length, too_long=config.on_bad_row)
    done = 0
    while window := list(islice(rows, WINDOW_ROWS)):
        yield (
            window,
            model.pooled(window, batch_tokens=config.batch_tokens, deterministic=config.deterministic),
        )
        done += len(window)
        progress(done, reader.read)


@contextmanager
def _destination(output: str) -> Iterator[Any]:
    """Give a function that writes one line, to stdout or to a file that appears when it is whole."""

    def writer(file: IO[str]) -> Any:
        return lambda line: file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")

    if output == "-":
        yield writer(sys.stdout)
        return
    path = Path(output)
    path.parent.mkdir(parents=True, exist_ok=True)
    with building_file(path) as part, part.open("w", encoding="utf-8") as file:
        yield writer(file)
