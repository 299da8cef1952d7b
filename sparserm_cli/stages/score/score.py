"""`score`: rewards of new responses, one JSON object a line, in the file's order.

Reads: responses, `reward/`, the language model. Writes: `scores.jsonl`, by rename when whole, or stdout; a
log of the scores, so that a killed run goes on where it was. Memory: as `scoring`.
"""

import math
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from sparserm_cli.config import Note, Progress, ScoreConfig
from sparserm_cli.stages.score.windows import all_rows, score_log
from sparserm_cli.store.outputs.json_lines import writing_lines
from sparserm_cli.store.outputs.scores import score_line, scores_path


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


def score(config: ScoreConfig, *, progress: Progress, note: Note) -> ScoreSummary:
    """Score the responses of a file.

    Args:
        config: the options.
        progress: called with rows scored and rows read so far.
        note: told what is worth knowing on the way.

    Raises:
        BadInputError: the file cannot be read as rows.
        IncompatibleError: the reward model was fitted on another model, tokenizer or template.
        CorruptStoreError: the reward model or the log of scores is damaged.
        TemporaryError: another process is scoring this file.
        ResourceError: disk or device are not to be had.
        PartialError: some rows failed three times; the others are in the log.
        StoppedError: Ctrl-C or SIGTERM; the rows done are in the log.

    """
    begun = time.monotonic()
    tally = _Tally()
    output = config.output or str(scores_path(config.run))
    # Known rows come first; of the others each line is written as soon as its window is done.
    with score_log(config, note) as log, writing_lines(output) as write:
        for row in all_rows(log, config, progress=progress, note=note):
            if "rejected" in row:
                tally.rejected += 1
                continue
            write(score_line(row))
            tally.add(row)
    if tally.token_method not in (None, "exact"):
        how = f"token rewards are {tally.token_method}"
        note(f"{how}: approximate, so they add up to the scores only nearly")
    return ScoreSummary(
        output,
        log.shape,
        tally.accepted + tally.rejected,
        tally.accepted,
        tally.rejected,
        tally.responses,
        tally.abstained,
        tally.mean,
        tally.std,
        tally.token_method,
        time.monotonic() - begun,
    )


class _Tally:
    """What becomes of the rows that stream by: how many, their scores' mean and spread, who got none."""

    def __init__(self) -> None:
        self.accepted = self.rejected = self.responses = self.abstained = 0
        self.token_method: str | None = None
        self._total = self._squares = 0.0

    def add(self, row: Mapping[str, Any]) -> None:
        """Count a row that was scored."""
        given = [score for score in row["scores"] if score is not None]
        self.accepted += 1
        self.responses += len(row["scores"])
        self.abstained += len(row["scores"]) - len(given)
        self.token_method = row.get("token_method")
        self._total += sum(given)
        self._squares += sum(score * score for score in given)

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
