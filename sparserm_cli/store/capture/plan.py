"""What a capture is planned to be: its settings, which are its identity, and the layout that follows.

Paths of input files are told but are no identity: a moved file is the same file.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from sparserm_cli.errors import CorruptStoreError, IncompatibleError, ResourceError, UsageError
from sparserm_cli.store.arrays.bfloat16 import ITEM_BYTES
from sparserm_cli.store.io.local_disk import sha256_file
from sparserm_cli.store.io.storage import free_bytes
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
    """One input file as it was read."""

    path: str
    """Where it lay; relative to a run directory on this machine if given so, that both may move together."""
    bytes: int
    """Its size."""
    sha256: str
    """Of its bytes, in hex."""


@dataclass(frozen=True)
class ExtractSettings:
    """Everything that decides what a capture holds."""

    model: str
    """The model's name."""
    model_revision: str
    """Its commit, or the digest of its files."""
    tokenizer: str
    """The digest of the tokenizer's state."""
    template: str
    """The digest of the chat template, or of `raw`."""
    layers: tuple[int, ...]
    """Blocks, counted from 0, after which the residual stream is taken."""
    hook_names: tuple[str, ...]
    """The same in sae-lens words, one a layer."""
    d_in: int
    """The width of the residual stream."""
    dtype: str
    """What the model computes in and what tokens are stored in: bfloat16 or float32."""
    inputs: tuple[InputFact, ...]
    """The files read, in order."""
    positions: str = "response"
    """`response` keeps every response token and the pooled vectors, `pooled` only these, `latents` these and,
    as the features made in the same pass, the latents of every response token."""
    max_length: int = 0
    """Tokens of prompt and response together that are accepted; 0 for what the model can take."""
    too_long: str = "error"
    """What is done with longer ones."""
    batch_tokens: int = 4_096
    """Tokens computed together."""
    unit_tokens: int = UNIT_TOKENS
    """Response tokens in a unit at most; one response that is longer makes a larger unit."""
    unit_responses: int = UNIT_RESPONSES
    """Responses in a unit at most."""
    limit: int | None = None
    """Rows read at most; None for all."""
    split: str = "train"
    """Of a data set of the hub."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Column names that were mapped."""
    template_source: str = "model"
    """Where the template comes from: `model`, `raw`, or a file by its digest."""
    template_text: str | None = None
    """The Jinja text of a template from a file, so that a reward model can be loaded without the file."""
    dedupe: bool = False
    """Whether only the first of equal pairs is kept."""
    deterministic: bool = False
    """Whether every tree is computed alone, so that batches cannot change a bit."""

    def __post_init__(self) -> None:
        """Check the values that the layout depends on.

        Raises:
            UsageError: the dtype or the positions are none of those that can be stored.
            ValueError: layers and hook names do not go together, or a size is not positive.

        """
        if self.dtype not in ITEM_BYTES:
            hint = "residual streams overflow float16: use bfloat16"
            raise UsageError("--dtype", " or ".join(sorted(ITEM_BYTES)), self.dtype, hint)
        if self.positions not in POSITIONS:
            raise UsageError("--positions", " or ".join(POSITIONS), self.positions, "choose one")
        if not self.layers or len(self.layers) != len(self.hook_names):
            raise ValueError("one hook name a layer")
        # A plan from outside may say anything, and layers become names of folders.
        numbers = (*self.layers, self.d_in, self.batch_tokens, self.unit_tokens, self.unit_responses)
        if any(type(number) is not int for number in numbers) or min(self.layers) < 0:
            raise ValueError("layers and sizes are whole numbers")
        if min(self.d_in, self.batch_tokens, self.unit_tokens, self.unit_responses) < 1:
            raise ValueError("sizes are positive")

    def identity(self) -> dict[str, Any]:
        """Return field to JSON value, with inputs by content only."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        inputs = [f"{item.sha256} ({item.bytes} bytes)" for item in self.inputs]
        lists = {name: list(values[name]) for name in ("layers", "hook_names")}
        return {**values, **lists, "inputs": inputs, "columns": dict(self.columns)}

    @property
    def token_cap(self) -> int:
        """Response tokens in a unit at most, so that no file is larger than 128 MiB."""
        if self.positions == "pooled":
            return self.unit_tokens
        return max(1, min(self.unit_tokens, MAX_FILE_BYTES // (self.d_in * ITEM_BYTES[self.dtype])))

    @property
    def response_cap(self) -> int:
        """Responses in a unit at most, so that no file is larger than 128 MiB."""
        return max(1, min(self.unit_responses, MAX_FILE_BYTES // (self.d_in * 4)))


@dataclass(frozen=True)
class Layout:
    """Numbers of things and shapes of arrays."""

    units: int
    """Pieces of work; one file an array each."""
    responses_per_unit: int
    """Rows of a pooled chunk: the most responses that any unit has."""
    tokens_per_unit: int
    """Rows of a token chunk: the most response tokens that any unit has."""
    responses: int
    """Unique responses."""
    prompts: int
    """Unique prompts."""
    pairs: int
    """Pairs of a chosen and a rejected response."""
    response_tokens: int
    """Tokens of all unique responses."""
    prompt_tokens: int
    """Tokens of all unique prompts."""


@dataclass(frozen=True)
class ExtractPlan:
    """A capture that is planned, or frozen on the disk."""

    settings: ExtractSettings
    """What decides its content."""
    layout: Layout
    """Its sizes."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Rows read, accepted and rejected, and whatever else the reader counted."""
    plan_hash: str = ""
    """Of the frozen plan; "" before."""

    @property
    def files(self) -> int:
        """The number of data files the capture will have."""
        arrays = len(POOLED) + (self.settings.positions == "response")
        return self.layout.units * arrays * len(self.settings.layers)

    @property
    def bytes(self) -> int:
        """The bytes the capture will take, tails of the last chunks included."""
        pooled = len(POOLED) * (self.layout.responses_per_unit * self.settings.d_in * 4 + _CHECKSUM_BYTES)
        tokens = 0
        if self.settings.positions == "response":
            width = self.settings.d_in * ITEM_BYTES[self.settings.dtype]
            tokens = self.layout.tokens_per_unit * width + _CHECKSUM_BYTES
        return self.layout.units * len(self.settings.layers) * (pooled + tokens)

    def bytes_left(self, done: int) -> int:
        """Return the bytes that are still to be written when `done` units are."""
        return self.bytes * (self.layout.units - done) // self.layout.units


def plan_of(where: str, plan: Plan) -> ExtractPlan:
    """Return the capture's plan that a frozen plan of the unit engine tells.

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
    """Return where a recorded input of a run directory would lie now."""
    return Path(os.path.normpath(run / recorded.path))


def check_inputs(plan: ExtractPlan, run: PurePath) -> None:
    """Hash the input files again, where they still lie where they were.

    Args:
        plan: the capture's.
        run: the run directory it lies in.

    Raises:
        IncompatibleError: a file has changed; names it and both sha256.

    """
    for recorded in plan.settings.inputs:
        path = input_path(run, recorded)
        if path.is_file():
            digest = sha256_file(path)
            if digest != recorded.sha256:
                hint = "the capture is stale: run `sparserm extract --force`, or put the file back"
                raise IncompatibleError(str(path), f"sha256 {recorded.sha256}", f"sha256 {digest}", hint)


def check_space(folder: PurePath, needed: int) -> None:
    """Refuse to begin what the disk cannot hold with a tenth to spare.

    Raises:
        ResourceError: less than 1.1 times `needed` bytes are free.

    """
    wanted, free = int(needed * _SPACE_FACTOR), free_bytes(folder)
    if free is not None and free < wanted:
        hint = "free space, choose another --run directory, or use --positions pooled"
        raise ResourceError(str(folder), f"{wanted:,} bytes free", f"{free:,}", hint)
