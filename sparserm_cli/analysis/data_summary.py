"""`data` shows how a file of rows is understood before anything is computed.

Reads: the data. Writes: preference rows in the format of TRL, if an output is named.
Memory: the first rows shown, 16 bytes per pair and 8 bytes per row.
"""

from array import array
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from sparserm_cli.config import column_map
from sparserm_cli.config.data import DataConfig
from sparserm_cli.data.example import Example, plain_prompt
from sparserm_cli.data.grouping import prompt_hash
from sparserm_cli.data.reader import Reader
from sparserm_cli.errors import BadInputError
from sparserm_cli.store.outputs.json_lines import Writer, writing_lines

SHOWN_ROWS = 3
"""The number of rows that are shown as messages."""
TEMPLATE_MARKS = ("<|im_start|>", "<start_of_turn>", "<|start_header_id|>", "[INST]", "<|user|>", "<|turn>")
"""Marks in a text that show that a chat template has been applied to it."""


class DataSummary(NamedTuple):
    """The summary of a file of rows.

    Fields:
        source: the file or data set.
        shape: name of the shape of its rows.
        understood: a sentence on the used and ignored columns, and on what decides which response is better.
        labelled: whether rows say which responses are better.
        columns: the column or path in the file of each name.
        other_labels: other columns that could decide which response is better.
        ignored: the number of accepted rows that have each unused column.
        read: number of rows read.
        accepted: number of rows accepted.
        rejected: number of rows rejected; accepted and rejected rows add up to the rows read.
        prompts: number of distinct prompts.
        responses: number of responses of the accepted rows.
        pairs: number of pairs of a better and a worse response, including identical and duplicate pairs.
        identical: number of pairs of two identical responses, which are never learned from.
        duplicate: number of pairs that repeat an earlier pair word for word.
        contradictory: number of pairs that also occur with sides swapped; two such pairs count once.
        undecided: number of rows that prefer no response, per reason (such as `tie`).
        margins: number of pairs for which the data say how much better the chosen response is.
        parsed: number of rows whose messages were JSON text.
        templated: number of rows with marks of a chat template in their text.
        first: the first rows: `row`, `prompt` and `responses` as messages, `pairs` (indices) and `margins`.
        reasons: the first rejected rows with their reasons.
        written: number of pairs written.
    """

    source: str
    shape: str
    understood: str
    labelled: bool
    columns: Mapping[str, str]
    other_labels: tuple[str, ...]
    ignored: Mapping[str, int]
    read: int
    accepted: int
    rejected: int
    prompts: int
    responses: int
    pairs: int
    identical: int
    duplicate: int
    contradictory: int
    undecided: Mapping[str, int]
    margins: int
    parsed: int
    templated: int
    first: list[dict[str, Any]]
    reasons: list[dict[str, Any]]
    written: int


def summarise_data(config: DataConfig) -> DataSummary:
    """Read a file of rows and summarise how it is understood.

    Raises:
        BadInputError: the file cannot be read as rows, or an output is named and no row prefers a response.
        UsageError: a mapped column does not exist.
        ResourceError: the output cannot be written.

    """
    labelled = _is_labelled(config)
    if config.output and not labelled:
        hint = "leave --output out, or map the columns with --column"
        raise BadInputError(config.data, "rows that prefer a response", "rows that do not", hint)
    said: list[str] = []
    reader = _reader(config, "pairs" if labelled else "any", said.append)
    tally = _Tally()
    with _writing(config.output) as write:
        for example in reader:
            tally.add(example)
            if write is not None:
                for row in preference_rows(example):
                    write(row)
                    tally.written += 1
    recognised = reader.recognised
    return DataSummary(
        source=config.data,
        shape=reader.shape,
        understood=said[0] if said else "",
        labelled=labelled,
        columns=dict(reader.used),
        other_labels=recognised.others if recognised else (),
        ignored=dict(reader.ignored),
        read=reader.read,
        accepted=reader.accepted,
        rejected=reader.rejected,
        prompts=len(np.unique(np.array(tally.prompts, np.uint64))),
        responses=tally.responses,
        pairs=tally.pairs,
        identical=reader.identical_pairs,
        duplicate=reader.duplicates,
        contradictory=reader.contradictory,
        undecided=dict(reader.undecided),
        margins=tally.margins,
        parsed=reader.parsed,
        templated=tally.templated,
        first=tally.first,
        reasons=[row._asdict() for row in reader.rejects[:SHOWN_ROWS]],
        written=tally.written,
    )


def preference_rows(example: Example) -> Iterator[dict[str, Any]]:
    """Yield one row per pair in TRL's conversational preference format; identical pairs are left out.

    Reference: https://huggingface.co/docs/trl/dataset_formats#preference.
    """
    prompt = _messages(example)
    more = {"tools": example.tools} if example.tools else {}
    for good, bad in example.pairs:
        chosen, rejected = example.message(good), example.message(bad)
        if chosen != rejected:
            yield {"prompt": prompt, "chosen": [chosen.plain()], "rejected": [rejected.plain()], **more}


class _Tally:
    """Counts the contents of examples and keeps the first ones."""

    def __init__(self) -> None:
        self.prompts = array("Q")
        self.responses = self.pairs = self.margins = self.templated = self.written = 0
        self.first: list[dict[str, Any]] = []

    def add(self, example: Example) -> None:
        """Count one example."""
        self.prompts.append(prompt_hash(example))
        self.responses += len(example.responses)
        self.pairs += len(example.pairs)
        self.margins += sum(margin is not None for margin in example.margins)
        texts = [turn["content"] for turn in _messages(example)] + list(example.responses)
        self.templated += any(mark in text for text in texts for mark in TEMPLATE_MARKS)
        if len(self.first) < SHOWN_ROWS:
            self.first.append(
                {
                    "row": example.row,
                    "prompt": _messages(example),
                    "responses": [example.message(place).plain() for place in range(len(example.responses))],
                    "pairs": [list(pair) for pair in example.pairs],
                    "margins": list(example.margins),
                }
            )


def _messages(example: Example) -> list[dict[str, Any]]:
    """Return the conversation before the responses as messages."""
    prompt = plain_prompt(example.prompt)
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


def _reader(config: DataConfig, purpose: Any, note: Callable[[str], None] | None = None) -> Reader:
    return Reader(
        config.data,
        purpose=purpose,
        columns=column_map(config.columns),
        split=config.split,
        limit=config.limit,
        on_bad_row=config.on_bad_row,
        offline=config.offline,
        note=note,
    )


def _is_labelled(config: DataConfig) -> bool:
    """Return whether rows say which responses are better, judged by the first good row."""
    reader = _reader(config, "any")
    next(iter(reader))
    return reader.recognised is not None and reader.recognised.labelled


@contextmanager
def _writing(output: str | None) -> Iterator[Writer | None]:
    """Open the writer of rows; None if nothing is written."""
    if output is None:
        yield None
        return
    with writing_lines(output) as write:
        yield write
