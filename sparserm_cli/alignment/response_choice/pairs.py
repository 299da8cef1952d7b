"""`pairs` writes preference pairs, chosen by reward from generations or filtered from labelled rows.

Reads: responses or preference rows, `reward/`, the language model. Writes: pairs in a trainer's format and an
audit of every row, each by rename when whole; a log of the scores, so that a killed run goes on where it was
and other limits need no second scoring. Memory: as `scored`.
"""

import itertools
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import PurePath
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from sparserm_cli.alignment.response_choice.scored_rows import Refused, Scored, score_file
from sparserm_cli.config import Note, PairsConfig, Progress
from sparserm_cli.data.chat_template import RAW, raw_transcript
from sparserm_cli.data.example import Example, plain_prompt
from sparserm_cli.locations import parse_location
from sparserm_cli.store.outputs.json_lines import replacement_note, writing_lines
from sparserm_cli.store.outputs.preferences import (
    REASONS,
    Messages,
    Pair,
    audit_line,
    audit_path,
    pairs_path,
    writing_pairs,
)


class PairsSummary(NamedTuple):
    """The results of `pairs`.

    Fields:
        output: path of the pairs.
        audit: path of the file that says what became of each row.
        shape: name of the shape of the file's rows.
        read: number of rows read.
        kept: number of rows that gave a pair.
        dropped: number of dropped rows per reason; kept and dropped rows add up to the rows read.
        margin: mean difference of the scores of chosen and rejected responses.
        longer: share of pairs whose chosen response has more characters.
        seconds: time in seconds for reading, computing and writing.
    """

    output: PurePath
    audit: PurePath
    shape: str
    read: int
    kept: int
    dropped: Mapping[str, int]
    margin: float
    longer: float
    seconds: float


class Choice(NamedTuple):
    """Two responses of a row, and whether they make a pair.

    Fields:
        chosen: index of the better response; -1 if no two could be compared.
        rejected: index of the worse response.
        margin: score of the better response minus that of the worse one.
        reason: the reason why they make no pair, one of `REASONS`; empty if they make one.
        detail: the values behind the reason.
    """

    chosen: int = -1
    rejected: int = -1
    margin: float = 0.0
    reason: str = ""
    detail: str = ""


def pairs(config: PairsConfig, *, progress: Progress, note: Note) -> PairsSummary:
    """Choose a preference pair from each row of a file.

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
    output = parse_location(config.output) if config.output else pairs_path(config.run, config.to)
    if replaced := replacement_note(output, "pairs"):
        note(replaced)
    audit, raw = audit_path(output), scored.reward.template == RAW
    dropped: Counter[str] = Counter()
    read = kept = longer = 0
    margin = 0.0
    with ExitStack() as files:
        tell = files.enter_context(writing_lines(audit))
        write = files.enter_context(writing_pairs(output, config.to))
        for row in scored:
            if isinstance(row, Refused):
                tell(audit_line(row.row, reason="bad row", detail=row.reason))
                dropped["bad row"] += 1
                read += 1
                continue
            example = row.example
            read += example.rows
            choice = choose(row, config)
            tell(audit_line(example.row, example.id, **choice._asdict()))
            if choice.reason:
                dropped[choice.reason] += 1
                continue
            pair = _pair(row, choice, raw=raw)
            write(pair)
            kept += 1
            margin += choice.margin
            longer += len(pair.chosen) > len(pair.rejected)
    seconds = time.monotonic() - begun
    dropped_counts = {reason: dropped[reason] for reason in REASONS if dropped[reason]}
    shares = (margin / kept, longer / kept) if kept else (0.0, 0.0)
    return PairsSummary(output, audit, scored.shape, read, kept, dropped_counts, *shares, seconds)


def choose(scored: Scored, limits: PairsConfig) -> Choice:
    """Choose the two responses of a row that are furthest apart by reward.

    Where the row says which responses are better, chosen and rejected come from those sides and are kept if
    the reward model agrees, score of chosen >= score of rejected: the paper's filter. Else they are the best
    and the worst, and equal scores make no pair.

    Args:
        scored: the row with its scores.
        limits: limits on the margin, the lengths and the distance from the training data.

    """
    example, scores = scored.example, scored.scores
    if example.turns or example.tools:
        return Choice(
            reason="bad row", detail="tools, calls or reasoning, which the text of a pair cannot hold"
        )
    labelled = bool(example.pairs)
    allowed = _comparable(example)
    if not allowed.any():
        return Choice(reason="one response", detail=f"{len(set(example.responses))} different")
    if limits.abstain is not None:
        alike = scored.ood <= limits.abstain
        allowed &= np.logical_and.outer(alike, alike)
        if not allowed.any():
            return Choice(reason="ood", detail=f"{alike.sum()} of {len(alike)} at most {limits.abstain:g}")
    if limits.length_ratio is not None:
        lengths = np.array([len(text) for text in example.responses])
        ratio = np.maximum.outer(lengths, lengths) / np.minimum.outer(lengths, lengths)
        allowed &= ratio <= limits.length_ratio
        if not allowed.any():
            detail = f"{lengths.min():,} to {lengths.max():,} characters"
            return Choice(reason="length", detail=detail)
    gaps = np.where(allowed, np.subtract.outer(scores, scores).astype(np.float64), -np.inf)
    chosen, rejected = (int(index) for index in np.unravel_index(gaps.argmax(), gaps.shape))
    choice = Choice(chosen, rejected, float(gaps[chosen, rejected]))
    if labelled and choice.margin < 0:
        return choice._replace(reason="order", detail=f"{choice.margin:+.4f}")
    if not labelled and choice.margin <= 0:
        return choice._replace(reason="tie", detail=f"{float(scores[chosen]):+.4f} each")
    if choice.margin < limits.margin:
        return choice._replace(reason="margin", detail=f"{choice.margin:+.4f} is less than {limits.margin:g}")
    return choice


def _comparable(example: Example) -> Bool[np.ndarray, "n n"]:
    """Return which response may be chosen over which: as labelled, and never over an equal text."""
    messages = [example.message(place) for place in range(len(example.responses))]
    pairs = example.pairs or tuple(itertools.permutations(range(len(messages)), 2))
    allowed = np.zeros((len(messages), len(messages)), np.bool_)
    for good, bad in pairs:
        allowed[good, bad] = messages[good] != messages[bad]
    return allowed


def _pair(scored: Scored, choice: Choice, *, raw: bool) -> Pair:
    """Return the pair; without a chat template its prompt is the text that was scored."""
    example, scores = scored.example, scored.scores
    texts = example.responses[choice.chosen], example.responses[choice.rejected]
    both = float(scores[choice.chosen]), float(scores[choice.rejected])
    return Pair(example.row, example.id, _prompt(example, raw=raw), *texts, both)


def _prompt(example: Example, *, raw: bool) -> Messages | str:
    if raw:
        return example.prompt if isinstance(example.prompt, str) else raw_transcript(example.prompt)
    prompt = plain_prompt(example.prompt)
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
