"""The scored rows of a file together with their texts, for commands that choose among responses.

Reads: responses or preference rows, `reward/`, the language model. Writes: as `scoring`.
Memory: as `scoring`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from sparserm_cli.config import Note, Progress, ResponsesConfig, ScoreConfig
from sparserm_cli.data.example import Example, Reject
from sparserm_cli.data.grouping import merged
from sparserm_cli.errors import IncompatibleError
from sparserm_cli.stages.score.responses import responses_reader
from sparserm_cli.stages.score.windows import all_rows, score_log
from sparserm_cli.store.artifacts.reward import RewardConfig, read_reward, reward_folder, reward_path
from sparserm_cli.store.outputs.score_log import ScoreLog, projections_of


class Scored(NamedTuple):
    """One row of a file.

    Fields:
        example: the row with its texts.
        scores: one score per response, in the row's order.
        ood: distance of each response from the training responses.
        group: key of the prompt; None where the log has no projections.
        projections: standardised projections of each response; None where the log has none.
    """

    example: Example
    scores: Float32[np.ndarray, " responses"]
    ood: Float32[np.ndarray, " responses"]
    group: int | None = None
    projections: Float32[np.ndarray, "responses p"] | None = None

    def belongs_to(self, other: "Scored") -> bool:
        """Whether both rows hold one response each to the same prompt."""
        mine, theirs = self.example, other.example
        single = len(mine.responses) == len(theirs.responses) == 1
        return single and (mine.prompt, mine.tools) == (theirs.prompt, theirs.tools)


def together(rows: Sequence[Scored]) -> Scored:
    """Return rows with one response each to the same prompt as one row."""
    if len(rows) == 1:
        return rows[0]
    scores, ood = np.concatenate([row.scores for row in rows]), np.concatenate([row.ood for row in rows])
    kept = [row.projections for row in rows if row.projections is not None]
    projections = np.concatenate(kept) if kept else None
    return Scored(merged([row.example for row in rows]), scores, ood, rows[0].group, projections)


class Refused(NamedTuple):
    """One row of a file that could not be scored: its number, counted from 1, and the reason."""

    row: int
    reason: str


class ScoredFile:
    """A file whose rows are all scored.

    Args:
        config: the options.
        reward: the recorded facts about the reward model.
        log: the complete log of its scores.

    Attributes:
        shape: name of the shape of the file's rows.

    """

    def __init__(self, config: ResponsesConfig, reward: RewardConfig, log: ScoreLog) -> None:
        self._config, self._log, self.reward = config, log, reward
        self.shape = log.shape

    def __iter__(self) -> Iterator[Scored | Refused]:
        """Yield the rows of the file in order, with refused ones; single responses are joined by prompt.

        Adjacent rows of one prompt become one row; a refused row among them comes after it.
        """
        held: list[Scored] = []
        between: list[Refused] = []
        for row in self._rows():
            if isinstance(row, Refused):
                between.append(row)
            elif held and row.belongs_to(held[0]):
                held.append(row)
            else:
                yield from _released(held, between)
                held, between = [row], []
        yield from _released(held, between)

    def _rows(self) -> Iterator[Scored | Refused]:
        """Yield every row of the file in order, including refused ones.

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
            example = next((example for example in examples if example.row >= line["row"]), None)
            scores = np.array(line["scores"], np.float32)
            if example is None or example.row != line["row"] or len(example.responses) != len(scores):
                raise _changed(self._config.file, f"another row {line['row']}")
            yield Scored(example, scores, np.array(line["ood"], np.float32), *projections_of(line))
        for _ in examples:  # the remaining rows were refused after they had been read
            pass
        if [source.sha256 for source in reader.inputs] != self._log.inputs:
            raise _changed(self._config.file, "another content")


def _released(held: Sequence[Scored], refused: Sequence[Refused]) -> Iterator[Scored | Refused]:
    """Yield the rows of one prompt as one row, then the refused rows among or after them."""
    if held:
        yield together(held)
    yield from refused


def score_file(
    config: ResponsesConfig, *, progress: Progress, note: Note, projections: bool = False
) -> ScoredFile:
    """Score all rows of a file that the log does not hold yet.

    Args:
        config: the options.
        progress: called with rows scored and rows read so far.
        note: called with messages for the user.
        projections: whether the rows have the projections of their responses as well.

    Raises:
        BadInputError: the file cannot be read as rows.
        IncompatibleError: the reward model was fitted on another model, tokenizer or template.
        CorruptStoreError: the reward model is damaged.
        TemporaryError: another process is scoring this file.
        ResourceError: the disk or the device is not available.

    """
    shared = {option.name: getattr(config, option.name) for option in fields(ResponsesConfig)}
    plain = ScoreConfig(**shared, projections=projections)
    with score_log(plain, note) as log:
        for _ in all_rows(log, plain, progress=progress, note=note):
            pass
    return ScoredFile(
        config, read_reward(reward_folder(config.reward or reward_path(config.run))).config, log
    )


def _ignore(_reject: Reject) -> None:
    """Ignore a refused row, because the log already records it."""


def _changed(file: str, found: str) -> IncompatibleError:
    return IncompatibleError(file, "the data that were scored", found, "leave it as it is and run again")
