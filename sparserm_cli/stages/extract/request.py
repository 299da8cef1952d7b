"""The first half of `extract`: turn options and data into a frozen plan, without the model's weights.

Reads: the data, the model's configuration and tokenizer. Writes: the plan inside `activations.zarr`.
Memory: some blocks of rows, however many rows there are.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from sparserm_cli.config import EncodeConfig, ExtractConfig, Note, column_map
from sparserm_cli.data.chat_template import PromptTemplate
from sparserm_cli.data.example import InputFile
from sparserm_cli.data.reader import Reader, without_pair
from sparserm_cli.data.rendering.row_tokenizer import TokenizedExample, tokenizer_digest
from sparserm_cli.data.sources.open import open_source
from sparserm_cli.data.splits import group_key
from sparserm_cli.data.tokenized_rows import tokenized_rows
from sparserm_cli.errors import BadInputError, IncompatibleError, SparseRMError, UsageError
from sparserm_cli.models.checkpoints.config_shape import ModelShape, check_ids, check_layers
from sparserm_cli.models.checkpoints.resolve import ModelIdentity, load_tokenizer
from sparserm_cli.models.sae.compatibility import Captured
from sparserm_cli.models.sae.load import read_sae_metadata
from sparserm_cli.stages.encode.sae_layers import SAETrial, check_saes
from sparserm_cli.store.capture.plan import ExtractPlan, ExtractSettings, InputFact
from sparserm_cli.store.capture.plan_writer import PlanWriter
from sparserm_cli.store.capture.writer import ActivationsWriter
from sparserm_cli.store.provenance import check_same_plan

CPU_BATCH_TOKENS, GPU_BATCH_TOKENS = 4096, 16384
"""Default number of tokens in one forward pass.

The plan fixes it, since the composition of batches decides the last bits of the result. A GPU with too little
memory halves it and records that.
"""


@dataclass(frozen=True)
class Request:
    """The requested content of a capture, known before tokenizer, torch or weights are loaded."""

    config: ExtractConfig
    """The options."""
    identity: ModelIdentity
    """Identity of the model that the options name."""
    layers: tuple[int, ...]
    """Numbers of the captured blocks, from 0."""

    @property
    def positions(self) -> str:
        """Positions that are kept, with `auto` resolved."""
        if self.config.positions == "auto":
            return "latents" if self.config.sae else "response"
        return self.config.positions

    def expected(self, recorded: Mapping[str, Any]) -> dict[str, Any]:
        """Return the identity that a plan of this request must have.

        Args:
            recorded: identity of the existing plan. Options that are `auto` keep the values that they got
                when that plan was made.

        """
        config = self.config
        inputs = open_source(config.data, split=config.split, offline=config.offline).inputs()
        requested = {
            "model": self.identity.name,
            "model_revision": self.identity.revision,
            "template_source": _template_source(config.template),
            "layers": list(self.layers),
            "positions": self.positions,
            "too_long": config.too_long,
            "dedupe": config.dedupe,
            "unit_tokens": config.unit_tokens,
            "limit": config.limit,
            "split": config.split,
            "columns": dict(column_map(config.columns)),
        }
        if inputs:
            requested["inputs"] = [f"{file.sha256} ({file.bytes} bytes)" for file in inputs]
        if config.dtype != "auto":
            requested["dtype"] = config.dtype
        if config.max_length is not None:
            requested["max_length"] = config.max_length
        if config.batch_tokens is not None:
            requested["batch_tokens"] = config.batch_tokens
        return {**recorded, **requested}

    def is_planned(self, root: PurePath) -> bool:
        """Return whether the plan at `root` is that of this request; an unreadable plan is not."""
        try:
            check_request(root, self)
        except SparseRMError:
            return False
        return True


def request_of(config: ExtractConfig, identity: ModelIdentity) -> Request:
    """Return the request that the options make of a model.

    Raises:
        UsageError: neither the options nor the SAEs name a layer.
        IncompatibleError: the layers contradict an SAE.

    """
    return Request(config, identity, wanted_layers(config))


def check_request(root: PurePath, request: Request) -> None:
    """Check that the plan in the run directory is that of the request.

    Raises:
        IncompatibleError: it is not; the error names the first field that differs and both values.
        CorruptStoreError: the plan cannot be read.

    """
    recorded = ActivationsWriter(root).plan.settings.identity()
    check_same_plan(str(root), recorded, request.expected(recorded), "--force")


def write_plan(root: PurePath, request: Request, note: Note) -> ExtractPlan:
    """Read, check and tokenise the data, and freeze the plan.

    Args:
        root: folder of the capture.
        request: requested content.
        note: called with how the data are understood, and which rows make no pair.

    Raises:
        BadInputError: there is a bad row, no row at all, or no pair of two different responses.
        IncompatibleError: the model has no chat template, no usable tokenizer, or not all of its weights.
        ResourceError: the disk is full.

    """
    config, identity = request.config, request.identity
    from sparserm_cli.models.lm.backbone import check_checkpoint

    shape = check_layers(identity, request.layers)
    check_checkpoint(identity, request.layers)
    tokenizer = load_tokenizer(identity)
    template = PromptTemplate(tokenizer, config.template, model=identity.name)
    settings = _settings(request, shape, template, tokenizer_digest(tokenizer))
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
        # A hub data set's digest is known only now that it has been read.
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


def tried_saes(request: Request, later: EncodeConfig | None, note: Note) -> list[SAETrial]:
    """Check the metadata of the SAEs that this command or `encode` names, before data and weights are read.

    Args:
        request: requested content.
        later: options of the `encode` that follows, if they are known. With extract's own --allow-mismatch
            its SAEs are not checked, since the capture may not be meant for them.
        note: called with cautions about an SAE.

    Raises:
        UsageError: there is no such SAE, or the model does not have the layer.
        IncompatibleError: an SAE does not fit the model or the layers, is broken, or pickled without a flag.

    """
    config, identity = request.config, request.identity
    later = None if config.allow_mismatch else later
    trials: list[SAETrial] = []
    for wanted in (config, later):
        known = {trial.name for trial in trials}
        if wanted is not None and (names := [name for name in wanted.sae if name not in known]):
            d_in = check_layers(identity, request.layers).d_in
            trials += check_saes(
                names,
                Captured(identity.name, identity.revision, request.layers, d_in),
                note,
                allow_pickle=wanted.allow_pickle,
                allow_mismatch=wanted.allow_mismatch,
                offline=config.offline,
            )
    return trials


def wanted_layers(config: ExtractConfig) -> tuple[int, ...]:
    """Return the layers to capture: those of the options, which must include the SAEs' own, or the latter.

    Raises:
        UsageError: neither the options nor the SAEs name a layer.
        IncompatibleError: an SAE is for a layer that the options do not name.

    """
    theirs = {name: read_sae_metadata(name, offline=config.offline).layer for name in config.sae}
    known = tuple(sorted({layer for layer in theirs.values() if layer is not None}))
    layers = config.layer or known
    if not layers:
        hint = "give --layer, such as the middle one, or --sae with an SAE that knows its layer"
        raise UsageError("--layer", "a layer", "none", hint)
    for name, layer in theirs.items():
        if layer is not None and layer not in layers:
            requested = ",".join(map(str, layers))
            raise IncompatibleError(
                "--layer", f"{layer}, which {name} was trained on", requested, "leave --layer out"
            )
    return layers


class _Pairs:
    """Adds each row's responses and pairs to the plan, and counts truncated and identical responses."""

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
        template_source=_template_source(config.template),
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


def _template_source(template: str | None) -> str:
    """Return the origin of the template: the model, none (`raw`), or a file with its digest."""
    if template is None or template == "raw":
        return template or "model"
    try:
        return f"file sha256:{hashlib.sha256(Path(template).read_bytes()).hexdigest()}"
    except OSError as problem:
        raise UsageError(
            "--template", "raw or a readable Jinja file", template, "correct the path"
        ) from problem
