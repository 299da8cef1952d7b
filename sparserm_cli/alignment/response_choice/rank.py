"""`rank`: order the responses to each prompt by reward and name the best, in the file's order.

Reads: responses, `reward/`, the language model. Writes: `ranking.jsonl`, by rename when whole, or stdout; a
log of the scores, so that a killed run goes on where it was. Memory: as `scored`.
"""

import time
from typing import NamedTuple

from sparserm_cli.alignment.response_choice.scored_rows import Refused, score_file
from sparserm_cli.config import Note, Progress, RankConfig
from sparserm_cli.data.example import plain_prompt
from sparserm_cli.store.outputs.json_lines import writing_lines
from sparserm_cli.store.outputs.rankings import ranking_line, ranking_path


class RankSummary(NamedTuple):
    """What `rank` has done.

    Fields:
        output: where the ranking is, - for stdout.
        shape: what kind of rows the file has.
        accepted: rows ranked.
        rejected: rows left out; with the accepted ones all rows read.
        responses: responses ranked.
        best: mean score of the best response of a prompt, whose rows come together if they hold one each.
        mean: mean over these of their responses' mean score, what choosing at random would give.
        seconds: spent on reading, computing and writing.
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
        note: told what is worth knowing on the way.

    Raises:
        BadInputError: the file cannot be read as rows.
        IncompatibleError: the reward model was fitted on another model, tokenizer or template.
        CorruptStoreError: the reward model or the log of scores is damaged.
        TemporaryError: another process is scoring this file.
        ResourceError: disk or device are not to be had.

    """
    begun = time.monotonic()
    scored = score_file(config, progress=progress, note=note)
    output = config.output or str(ranking_path(config.run))
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
