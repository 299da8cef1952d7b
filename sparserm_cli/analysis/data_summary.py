"""`data`: what a file of rows becomes, before anything is computed.

Reads: the data. Writes: preference rows as TRL reads them, where an output is named.
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
"""How many rows are shown as messages."""
TEMPLATE_MARKS = ("<|im_start|>", "<start_of_turn>", "<|start_header_id|>", "[INST]", "<|user|>", "<|turn>")
"""Marks by which text shows that it has been through a chat template."""


class DataSummary(NamedTuple):
    """What a file of rows becomes.

    Fields:
        source: the file or data set.
        shape: name of the shape of its rows.
        understood: sentence on the columns that are used and ignored, and on what decides which is better.
        labelled: whether rows say which responses are better.
        columns: our names to the columns or paths of the file.
        other_labels: columns that could decide as well what is better.
        ignored: column that is not used to the number of accepted rows that have it.
        read: rows read.
        accepted: rows accepted.
        rejected: rows rejected; with the accepted ones all rows read.
        prompts: different prompts.
        responses: responses of the accepted rows.
        pairs: pairs of a better and a worse response, identical and duplicate ones too.
        identical: pairs of twice the same response, which are never learned from.
        duplicate: pairs that had come before, word for word.
        contradictory: pairs that are there the other way round as well; two such pairs count as one.
        undecided: why rows prefer no response (`tie`) to their number.
        margins: pairs for which the data say how much better.
        parsed: rows whose messages were JSON text.
        templated: rows with marks of a chat template in their text.
        first: the first rows: `row`, `prompt` and `responses` as messages, `pairs` (places) and `margins`.
        reasons: the first reasons why rows were rejected.
        written: pairs written.
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
    """Read a file of rows and tell what it becomes.

    Raises:
        BadInputError: it cannot be read as rows, or an output is named and its rows prefer nothing.
        UsageError: a mapped column is not there.
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
    """Yield a row per pair as TRL's conversational preference format has it; identical pairs are left out.

    Reference: https://huggingface.co/docs/trl/dataset_formats#preference.
    """
    prompt = _messages(example)
    more = {"tools": example.tools} if example.tools else {}
    for good, bad in example.pairs:
        chosen, rejected = example.message(good), example.message(bad)
        if chosen != rejected:
            yield {"prompt": prompt, "chosen": [chosen.plain()], "rejected": [rejected.plain()], **more}


class _Tally:
    """Counts what examples hold, and keeps the first."""

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
    """Tell from the first good row whether rows say which responses are better."""
    reader = _reader(config, "any")
    next(iter(reader))
    return reader.recognised is not None and reader.recognised.labelled


@contextmanager
def _writing(output: str | None) -> Iterator[Writer | None]:
    """Give what writes rows; None where nothing is written."""
    if output is None:
        yield None
        return
    with writing_lines(output) as write:
        yield write
