"""`score`: compute the rewards of new responses, one JSON object per line, in the order of the file.

Reads: responses, `reward/`, the language model. Writes: `scores.jsonl`, by rename when whole, or stdout; a
log of the scores, so that a killed run continues where it stopped.
Memory: the model's lower blocks and a window of rows.
"""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sparserm_cli.config import Note, Progress, ScoreConfig
from sparserm_cli.stages.score.windows import all_rows, score_log
from sparserm_cli.store.artifacts.reward import read_reward, reward_folder, reward_path
from sparserm_cli.store.outputs.json_lines import replacement_note, writing_lines
from sparserm_cli.store.outputs.scores import score_line, scores_path


class ScoreSummary(NamedTuple):
    """The result of `score`.

    Fields:
        output: path of the scores, or - for stdout.
        shape: data shape of the rows of the file.
        read: number of rows read, which is `accepted + rejected`.
        accepted: number of rows scored.
        rejected: number of rows left out.
        responses: number of responses in the accepted rows.
        abstained: number of these responses without a score, since they are too far from the training data.
        mean: mean of the scores; NaN if there is none.
        std: standard deviation of the scores; NaN if there is none.
        token_method: method that computed token rewards; None if they were not requested.
        part_groups: name of each group of directions to its directions; None if parts were not requested.
        seconds: duration of reading, computing and writing in seconds.
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
    part_groups: Mapping[str, Sequence[str]] | None
    seconds: float


def score(config: ScoreConfig, *, progress: Progress, note: Note) -> ScoreSummary:
    """Score the responses of a file.

    Args:
        config: the options.
        progress: called with rows scored and rows read so far.
        note: called with each message for the user.

    Raises:
        BadInputError: the file cannot be read as rows.
        IncompatibleError: the reward model was fitted on another model, tokenizer or template.
        CorruptStoreError: the reward model or the log of scores is damaged.
        TemporaryError: another process is scoring this file.
        ResourceError: the disk is full or the device is missing.
        PartialError: some rows failed three times; the others are in the log.
        StoppedError: Ctrl-C or SIGTERM arrived; the rows done are in the log.

    """
    begun = time.monotonic()
    # 1. Say which earlier scores will be replaced.
    counts = _ScoreCounts()
    output = config.output or str(scores_path(config.run))
    if replaced := replacement_note(output, "scores"):
        note(replaced)
    # 2. Rows that the log knows come first; the others are scored window by window and written at once.
    with score_log(config, note) as log, writing_lines(output) as write:
        for row in all_rows(log, config, progress=progress, note=note):
            if "rejected" in row:
                counts.rejected += 1
                continue
            write(score_line(row))
            counts.add(row)
    # 3. Sum up what was scored.
    if counts.token_method not in (None, "exact"):
        how = f"token rewards are {counts.token_method}"
        note(f"{how}: approximate, so they add up to the scores only nearly")
    if counts.part_method not in (None, "exact"):
        how = f"parts are {counts.part_method}"
        note(f"{how}: one of several fair divisions; `remainder` is what they miss of a score")
    return ScoreSummary(
        output,
        log.shape,
        counts.accepted + counts.rejected,
        counts.accepted,
        counts.rejected,
        counts.responses,
        counts.abstained,
        counts.mean,
        counts.std,
        counts.token_method,
        groups_of(config) if config.parts else None,
        time.monotonic() - begun,
    )


def groups_of(config: ScoreConfig) -> Mapping[str, Sequence[str]]:
    """Return the name of each group of directions whose parts are given, and its directions."""
    from sparserm_cli.models.head.attribution import part_groups
    from sparserm_cli.models.head.reward_head import RewardHead

    files = read_reward(reward_folder(config.reward or reward_path(config.run))).of_group(config.group)
    groups = part_groups(RewardHead.from_files(files), files.config.selection, config.part_groups)
    return {group.name: group.directions for group in groups}


class _ScoreCounts:
    """Running counts of rows and responses, and the mean and standard deviation of the scores."""

    def __init__(self) -> None:
        self.accepted = self.rejected = self.responses = self.abstained = 0
        self.token_method: str | None = None
        self.part_method: str | None = None
        self._total = self._squares = 0.0

    def add(self, row: Mapping[str, Any]) -> None:
        """Count a row that was scored."""
        given = [score for score in row["scores"] if score is not None]
        self.accepted += 1
        self.responses += len(row["scores"])
        self.abstained += len(row["scores"]) - len(given)
        self.token_method, self.part_method = row.get("token_method"), row.get("part_method")
        self._total += sum(given)
        self._squares += sum(score * score for score in given)

    @property
    def mean(self) -> float:
        """Mean of the scores; NaN if there is none."""
        given = self.responses - self.abstained
        return self._total / given if given else math.nan

    @property
    def std(self) -> float:
        """Standard deviation of the scores; NaN if there is none."""
        given = self.responses - self.abstained
        return max(0.0, self._squares / given - self.mean**2) ** 0.5 if given else math.nan
