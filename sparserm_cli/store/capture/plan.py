"""The plan of a capture: its settings, which are its identity, and the layout that follows from them.

Paths of input files are recorded but are not part of the identity, since a moved file is the same file.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from sparserm_cli.errors import CorruptStoreError, IncompatibleError, ResourceError, UsageError
from sparserm_cli.store.arrays.bfloat16 import ITEM_BYTES
from sparserm_cli.store.io.local_disk import sha256_file
from sparserm_cli.store.io.storage import storage_of
from sparserm_cli.store.provenance import first_difference
from sparserm_cli.store.units.records import Plan

POSITIONS = ("response", "pooled", "latents")
POOLED = ("last", "mean")
UNIT_TOKENS = 16_384
UNIT_RESPONSES = 4_096
MAX_FILE_BYTES = 128 * 2**20
_SPACE_FACTOR = 1.1
_CHECKSUM_BYTES = 4


class InputFact(NamedTuple):
    """The recorded path, size and digest of one input file."""

    path: str
    """Its path; a relative path is relative to a local run directory, so that both may be moved together."""
    bytes: int
    """Its size in bytes."""
    sha256: str
    """The sha256 of its bytes, in hexadecimal."""


@dataclass(frozen=True)
class ExtractSettings:
    """Everything that determines the content of a capture."""

    model: str
    """Name of the model."""
    model_revision: str
    """Commit of the model, or the digest of its files."""
    tokenizer: str
    """Digest of the tokenizer's state."""
    template: str
    """Digest of the chat template, or of `raw`."""
    layers: tuple[int, ...]
    """Blocks, counted from 0, after which the residual stream is taken."""
    hook_names: tuple[str, ...]
    """Names of the same points in sae-lens, one per layer."""
    d_in: int
    """Width of the residual stream."""
    dtype: str
    """Type in which the model computes and token vectors are stored: bfloat16 or float32."""
    inputs: tuple[InputFact, ...]
    """The input files, in order."""
    positions: str = "response"
    """Stored vectors: `response` for those of every response token and the pooled ones, `pooled` for the
    pooled ones only, `latents` for the pooled ones and, as features, the latents of every response token."""
    max_length: int = 0
    """Largest accepted length of prompt and response together, in tokens; 0 for the model's limit."""
    too_long: str = "error"
    """Treatment of longer pairs, such as `error`."""
    batch_tokens: int = 4_096
    """Number of tokens per batch."""
    unit_tokens: int = UNIT_TOKENS
    """Largest number of response tokens per unit; a longer response makes a larger unit."""
    unit_responses: int = UNIT_RESPONSES
    """Largest number of responses per unit."""
    limit: int | None = None
    """Largest number of rows to read; None for all."""
    split: str = "train"
    """Split to read of a data set from the hub."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Mapping of column names of the data to those expected here."""
    template_source: str = "model"
    """Source of the template: `model`, `raw`, or the digest of a file."""
    template_text: str | None = None
    """The Jinja text of a template from a file, so that a reward model can be loaded without the file."""
    dedupe: bool = False
    """Whether only the first of several equal pairs is kept."""
    deterministic: bool = False
    """Whether every prompt is computed alone, so that batching cannot change results."""

    def __post_init__(self) -> None:
        """Check the values that the layout depends on.

        Raises:
            UsageError: the dtype or the positions cannot be stored.
            ValueError: layers and hook names differ in number, or a size is not positive.

        """
        if self.dtype not in ITEM_BYTES:
            hint = "residual streams overflow float16: use bfloat16"
            raise UsageError("--dtype", " or ".join(sorted(ITEM_BYTES)), self.dtype, hint)
        if self.positions not in POSITIONS:
            raise UsageError("--positions", " or ".join(POSITIONS), self.positions, "choose one")
        if not self.layers or len(self.layers) != len(self.hook_names):
            raise ValueError("there is one hook name per layer")
        # An imported plan is not trusted, and layers become names of folders.
        numbers = (*self.layers, self.d_in, self.batch_tokens, self.unit_tokens, self.unit_responses)
        if any(type(number) is not int for number in numbers) or min(self.layers) < 0:
            raise ValueError("layers and sizes are whole numbers")
        if min(self.d_in, self.batch_tokens, self.unit_tokens, self.unit_responses) < 1:
            raise ValueError("sizes are positive")

    def identity(self) -> dict[str, Any]:
        """Return a mapping from field to JSON value, with inputs by their content only."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        inputs = [f"{item.sha256} ({item.bytes} bytes)" for item in self.inputs]
        lists = {name: list(values[name]) for name in ("layers", "hook_names")}
        return {**values, **lists, "inputs": inputs, "columns": dict(self.columns)}

    @property
    def token_cap(self) -> int:
        """Largest number of response tokens per unit, so that no file exceeds 128 MiB."""
        if self.positions == "pooled":
            return self.unit_tokens
        return max(1, min(self.unit_tokens, MAX_FILE_BYTES // (self.d_in * ITEM_BYTES[self.dtype])))

    @property
    def response_cap(self) -> int:
        """Largest number of responses per unit, so that no file exceeds 128 MiB."""
        return max(1, min(self.unit_responses, MAX_FILE_BYTES // (self.d_in * 4)))


@dataclass(frozen=True)
class Layout:
    """Sizes of a capture, which determine the shapes of its arrays."""

    units: int
    """Number of units; each array has one file per unit."""
    responses_per_unit: int
    """Rows per chunk of pooled vectors: the largest number of responses in any unit."""
    tokens_per_unit: int
    """Rows per chunk of token vectors: the largest number of response tokens in any unit."""
    responses: int
    """Number of unique responses."""
    prompts: int
    """Number of unique prompts."""
    pairs: int
    """Number of pairs of a chosen and a rejected response."""
    response_tokens: int
    """Total number of tokens of the unique responses."""
    prompt_tokens: int
    """Total number of tokens of the unique prompts."""
    margins: int = 0
    """Number of pairs for which the data say how much better the chosen response is."""

    def to_json(self) -> dict[str, int]:
        """Return the sizes as a plan records them; without margins the record is that of earlier releases."""
        sizes = vars(self)
        return sizes if self.margins else {name: size for name, size in sizes.items() if name != "margins"}


@dataclass(frozen=True)
class ExtractPlan:
    """The plan of a capture, before or after it is written to the disk."""

    settings: ExtractSettings
    """Settings that determine its content."""
    layout: Layout
    """Sizes of the capture."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Numbers of rows read, accepted and rejected, and further counts of the reader."""
    plan_hash: str = ""
    """Hash of the written plan; "" before it is written."""

    @property
    def files(self) -> int:
        """Number of data files that the capture will have."""
        arrays = len(POOLED) + (self.settings.positions == "response")
        return self.layout.units * arrays * len(self.settings.layers)

    @property
    def bytes(self) -> int:
        """Size of the complete capture in bytes, including unused rows."""
        pooled = len(POOLED) * (self.layout.responses_per_unit * self.settings.d_in * 4 + _CHECKSUM_BYTES)
        tokens = 0
        if self.settings.positions == "response":
            width = self.settings.d_in * ITEM_BYTES[self.settings.dtype]
            tokens = self.layout.tokens_per_unit * width + _CHECKSUM_BYTES
        return self.layout.units * len(self.settings.layers) * (pooled + tokens)

    def bytes_left(self, done: int) -> int:
        """Return the bytes still to be written after `done` units."""
        return self.bytes * (self.layout.units - done) // self.layout.units


def plan_of(where: str, plan: Plan) -> ExtractPlan:
    """Return the plan of a capture from the plan of its unit store.

    Raises:
        CorruptStoreError: a field is missing or of the wrong kind.

    """
    try:
        identity, metadata = dict(plan.identity), plan.metadata
        inputs = tuple(InputFact(str(path), int(size), str(sha)) for path, size, sha in metadata["inputs"])
        lists = {name: tuple(identity[name]) for name in ("layers", "hook_names")}
        settings = ExtractSettings(**{**identity, **lists, "inputs": inputs})
        again = settings.identity()
        layout = Layout(**{name: int(value) for name, value in plan.layout.items()})
        read = ExtractPlan(settings, layout, dict(metadata["counts"]), plan.plan_hash)
    except (KeyError, TypeError, ValueError, UsageError) as error:
        raise CorruptStoreError(where, "a capture's plan", repr(error), "run extract --force") from None
    difference = first_difference(identity, {name: again[name] for name in identity})
    if difference is not None:
        name, expected, found = difference
        raise CorruptStoreError(f"{where}: {name}", expected, found, "run extract --force")
    return read


def input_path(run: PurePath, recorded: InputFact) -> Path:
    """Return the present path of a recorded input of a run directory."""
    return Path(os.path.normpath(run / recorded.path))


def check_inputs(plan: ExtractPlan, run: PurePath) -> None:
    """Hash the input files that still lie at their recorded path, and compare.

    Args:
        plan: plan of the capture.
        run: run directory of the capture.

    Raises:
        IncompatibleError: a file has changed; the error names it and both sha256.

    """
    for recorded in plan.settings.inputs:
        path = input_path(run, recorded)
        if path.is_file():
            digest = sha256_file(path)
            if digest != recorded.sha256:
                hint = "the capture is stale: run `sparserm extract --force`, or put the file back"
                raise IncompatibleError(str(path), f"sha256 {recorded.sha256}", f"sha256 {digest}", hint)


def check_space(folder: PurePath, needed: int) -> None:
    """Check that the disk has room for `needed` bytes and a tenth more.

    Raises:
        ResourceError: less than 1.1 times `needed` bytes are free.

    """
    wanted, free = int(needed * _SPACE_FACTOR), storage_of(folder).free_bytes()
    if free is not None and free < wanted:
        hint = "free space, choose another --run directory, or use --positions pooled"
        raise ResourceError(str(folder), f"{wanted:,} bytes free", f"{free:,}", hint)
