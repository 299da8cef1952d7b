"""The first half of `extract`: turn options and data into a frozen plan, without the model's weights.

Reads: the data, the model's configuration and tokenizer. Writes: the plan inside `activations.zarr`.
Memory: some blocks of rows, however many rows there are.
"""

import os
from dataclasses import replace
from pathlib import Path, PurePath

import numpy as np

from sparserm_cli.config import Note, column_map
from sparserm_cli.data.chat_template import PromptTemplate
from sparserm_cli.data.example import InputFile
from sparserm_cli.data.reader import Reader, without_pair
from sparserm_cli.data.rendering.row_tokenizer import TokenizedExample, tokenizer_digest
from sparserm_cli.data.splits import group_key
from sparserm_cli.data.tokenized_rows import tokenized_rows
from sparserm_cli.errors import BadInputError
from sparserm_cli.models.checkpoints.config_shape import ModelShape, check_ids, check_layers
from sparserm_cli.models.checkpoints.resolve import load_tokenizer
from sparserm_cli.stages.extract.request import Request, template_source
from sparserm_cli.store.capture.plan import ExtractPlan, ExtractSettings, InputFact
from sparserm_cli.store.capture.plan_writer import PlanWriter

CPU_BATCH_TOKENS, GPU_BATCH_TOKENS = 4096, 16384
"""Default number of tokens in one forward pass.

The plan fixes it, since the composition of batches decides the last bits of the result. A GPU with too little
memory halves it and records that.
"""


def write_plan(root: PurePath, request: Request, note: Note) -> ExtractPlan:
    """Read, check and tokenise the data, and freeze the plan.

    Args:
        root: folder of the capture.
        request: requested content.
        note: called with how the data were understood, and which rows make no pair.

    Raises:
        BadInputError: there is a bad row, no row at all, or no pair of two different responses.
        IncompatibleError: the model has no chat template, no usable tokenizer, or not all of its weights.
        ResourceError: the disk is full.

    """
    config, identity = request.config, request.identity
    from sparserm_cli.models.lm.backbone import check_checkpoint

    # 1. Model, tokenizer and template settle what every row is computed with.
    shape = check_layers(identity, request.layers)
    check_checkpoint(identity, request.layers)
    tokenizer = load_tokenizer(identity)
    template = PromptTemplate(tokenizer, config.template, model=identity.name)
    settings = _settings(request, shape, template, tokenizer_digest(tokenizer))
    # 2. Every row becomes token ids, and its responses and pairs enter the plan.
    with PlanWriter(root, settings) as writer:
        reader = Reader(
            config.data,
            purpose="pairs",
            columns=column_map(config.columns),
            split=config.split,
            limit=config.limit,
            on_bad_row=config.on_bad_row,
            offline=config.offline,
            sink=lambda reject: writer.reject(reject._asdict()),
            note=note,
        )
        pairs = _Pairs(writer, identity.name, shape.vocabulary)
        for row in tokenized_rows(reader, template, max_length=settings.max_length, too_long=config.too_long):
            pairs.add(row)
        for sentence in without_pair(reader):
            note(sentence)
        if not pairs.different:
            reasons = "; ".join(without_pair(reader)) or f"{reader.accepted:,} rows without one"
            hint = "see what the file becomes with `sparserm data`"
            raise BadInputError(config.data, "a pair of two different responses", reasons, hint)
        # 3. The plan is frozen. The digest of a hub data set is known only after reading it.
        inputs = tuple(_input_fact(file, root.parent) for file in reader.inputs)
        writer.settings = replace(settings, inputs=inputs)
        counts = {
            "rows_read": reader.read,
            "rows_accepted": reader.accepted,
            "rows_rejected": reader.rejected,
            "rows_without_pair": reader.undecided.total(),
            "identical_pairs": reader.identical_pairs,
            "duplicate_pairs": reader.duplicates,
            "straddled": pairs.straddled,
            "truncated": pairs.truncated,
        }
        return writer.freeze(counts)


def _input_fact(read: InputFile, run: PurePath) -> InputFact:
    """Return what is recorded of an input file, with its path relative to the run directory.

    A run on an object store records the absolute path, since no relative path leads to this machine.
    """
    path = read.path
    if Path(path).is_file() and not Path(path).is_absolute():
        path = os.path.relpath(path, run) if isinstance(run, Path) else str(Path(path).absolute())
    return InputFact(path, read.bytes, read.sha256)


class _Pairs:
    """Adds the responses and pairs of each row to the plan, and counts truncated and different responses."""

    def __init__(self, writer: PlanWriter, model: str, vocabulary: int) -> None:
        self._writer, self._model, self._vocabulary = writer, model, vocabulary
        self.straddled = self.truncated = self.different = 0

    def add(self, row: TokenizedExample) -> None:
        """Add one row.

        Raises:
            IncompatibleError: the tokenizer gave an id that the model has no embedding for.

        """
        if not row.example.pairs:
            return
        for response in row.responses:
            for ids in (response.prompt_ids, response.response_ids):
                check_ids(self._model, ids, self._vocabulary)
        group = group_key(row.prompt_text)
        handles = [
            self._writer.add(
                response.prompt_ids,
                response.response_ids,
                group=group,
                characters=response.characters,
                straddled=response.straddled,
                truncated=response.truncated,
            )
            for response in row.responses
        ]
        self.straddled += sum(response.straddled for response in row.responses)
        self.truncated += sum(response.truncated for response in row.responses)
        margins = row.example.margins or (None,) * len(row.example.pairs)
        for (good, bad), margin in zip(row.example.pairs, margins, strict=True):
            self._writer.add_pair(handles[good], handles[bad], row.example.row, margin)
            both = [row.responses[place].response_ids for place in (good, bad)]
            self.different += not np.array_equal(both[0], both[1])


def _settings(
    request: Request, shape: ModelShape, template: PromptTemplate, tokenizer: str
) -> ExtractSettings:
    """Return the settings of the capture, with every `auto` resolved."""
    from sparserm_cli.models.lm.devices import choose_device, choose_dtype

    config = request.config
    device = choose_device(config.device)
    dtype, _ = choose_dtype(config.dtype, device)
    return ExtractSettings(
        model=request.identity.name,
        model_revision=request.identity.revision,
        tokenizer=tokenizer,
        template=template.digest,
        template_source=template_source(config.template),
        template_text=None if config.template in (None, "raw") else template.text,
        layers=request.layers,
        hook_names=tuple(f"blocks.{layer}.hook_resid_post" for layer in request.layers),
        d_in=shape.d_in,
        dtype=str(dtype).removeprefix("torch."),
        inputs=(),
        positions=request.positions,
        max_length=min(config.max_length or shape.max_positions, shape.max_positions),
        too_long=config.too_long,
        batch_tokens=config.batch_tokens or (CPU_BATCH_TOKENS if device == "cpu" else GPU_BATCH_TOKENS),
        unit_tokens=config.unit_tokens,
        limit=config.limit,
        split=config.split,
        columns=column_map(config.columns),
        dedupe=config.dedupe,
    )
