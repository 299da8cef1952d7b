"""`rank` orders the responses to each prompt by reward and names the best, in the file's order.

Reads: responses, `reward/`, the language model. Writes: `ranking.jsonl`, by rename when whole, or stdout; a
log of the scores, so that a killed run goes on where it was. Memory: as `scored`.
"""

import time
from typing import NamedTuple

from sparserm_cli.alignment.response_choice.scored_rows import Refused, score_file
from sparserm_cli.config import Note, Progress, RankConfig
from sparserm_cli.data.example import plain_prompt
from sparserm_cli.store.outputs.json_lines import replacement_note, writing_lines
from sparserm_cli.store.outputs.rankings import ranking_line, ranking_path


class RankSummary(NamedTuple):
    """The results of `rank`.

    Fields:
        output: path of the ranking; - means stdout.
        shape: name of the shape of the file's rows.
        accepted: number of rows ranked.
        rejected: number of rows left out; accepted and rejected rows add up to the rows read.
        responses: number of responses ranked.
        best: mean over the prompts of the score of the best response.
        mean: mean over the prompts of their responses' mean score, the expected value of a random choice.
        seconds: time in seconds for reading, computing and writing.
    """

    output: str
    shape: str
    accepted: int
    rejected: int
    responses: int
    best: float
    mean: float
    seconds: float


def rank(config: RankConfig, *, progress: Progress, note: Note) -> RankSummary:
    """Rank the responses of a file's rows.

    Args:
        config: the options.
        progress: called with rows scored and rows read so far.
        note: called with messages for the user.

    Raises:
        BadInputError: the file cannot be read as rows.
        IncompatibleError: the reward model was fitted on another model, tokenizer or template.
        CorruptStoreError: the reward model or the log of scores is damaged.
        TemporaryError: another process is scoring this file.
        ResourceError: the disk or the device is not available.

    """
    begun = time.monotonic()
    scored = score_file(config, progress=progress, note=note)
    output = config.output or str(ranking_path(config.run))
    if replaced := replacement_note(output, "rankings"):
        note(replaced)
    accepted = rejected = prompts = responses = 0
    best = mean = 0.0
    with writing_lines(output) as write:
        for row in scored:
            if isinstance(row, Refused):
                rejected += 1
                continue
            example, scores = row.example, row.scores
            prompt = plain_prompt(example.prompt)
            write(ranking_line(example.row, example.id, prompt, example.responses, scores))
            accepted += example.rows
            prompts += 1
            responses += len(scores)
            best += float(scores.max())
            mean += float(scores.mean())
    seconds = time.monotonic() - begun
    return RankSummary(
        output, scored.shape, accepted, rejected, responses, best / prompts, mean / prompts, seconds
    )
