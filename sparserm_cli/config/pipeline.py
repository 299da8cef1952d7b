"""Configs of the pipeline, in its order: extract, encode, frequency, select, fit."""

from dataclasses import dataclass, fields
from typing import Any, Literal

from sparserm_cli.config.base import DEFAULT_MODEL, StageConfig, UnitsConfig
from sparserm_cli.errors import UsageError


@dataclass(frozen=True)
class ExtractConfig(UnitsConfig):
    """`extract`: residual activations of preference pairs."""

    data: str = ""
    """Preference pairs: a .jsonl, .jsonl.gz, .json, .csv or .parquet file, or a Hugging Face data set."""
    model: str = DEFAULT_MODEL
    """Language model: smollm2-135m, a hub id (with @revision), a local directory or a .gguf file."""
    layer: tuple[int, ...] | None = None
    """Blocks, counted from 0, after which the residual stream is kept; None takes the layer of `sae`."""
    sae: tuple[str, ...] = ()
    """SAEs that give the layers when `layer` is left out, and encode in the same pass (`latents`)."""
    positions: Literal["auto", "response", "pooled", "latents"] = "auto"
    """response keeps every response token and the pooled vectors, pooled only these, latents these and every
    token's SAE latents; auto is latents if an SAE is given, else response."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type the model computes in; auto is bfloat16 where this machine multiplies it faster."""
    device: str = "auto"
    """Torch device; auto is cuda where there is one, else cpu; balanced or a JSON file shares the model's
    blocks among several."""
    batch_tokens: int | None = None
    """Tokens in one forward pass, padding included; None chooses by the machine."""
    max_length: int | None = None
    """Longest prompt plus response in tokens; None is the model's own limit."""
    too_long: Literal["error", "reject", "truncate-left"] = "error"
    """What happens to a longer one: stop, reject its row, or drop the oldest prompt tokens."""
    template: str | None = None
    """Chat template: None is the model's own, raw is none at all, else the path of a Jinja file."""
    columns: tuple[str, ...] = ()
    """Column names of the data mapped onto ours, each like prompt=question."""
    split: str = "train"
    """Split of a Hugging Face data set."""
    limit: int | None = None
    """Most rows read from the data; None reads all."""
    on_bad_row: Literal["error", "reject"] = "error"
    """Stop at a bad row, or write it to rejects.jsonl and go on."""
    on_nonfinite: Literal["error", "reject"] = "error"
    """Stop at residuals with NaN or infinity, or leave the response out and count it."""
    dedupe: bool = False
    """Keep only the first of several equal pairs."""
    unit_tokens: int = 65536
    """Response tokens in one unit of work, which is what a crash can lose at most."""
    dry_run: bool = False
    """Stop after the plan and its price."""
    calibrate: bool = False
    """Let the dry run measure the rate for 20 seconds instead of 3."""
    tokens_per_second: float | None = None
    """Rate of one device that a dry run counts with; None measures this machine's."""
    gpu: str | None = None
    """Name of the device that the dry run's figures are for; one that is not here needs a rate."""
    gpus: int = 1
    """Devices that would share the work."""
    price_per_hour: float | None = None
    """Price of one device an hour, in any currency."""
    force: bool = False
    """Throw away an existing capture made with other settings."""
    offline: bool = False
    """Never call the hub."""
    remote_code: bool = False
    """Let a model run code of its own; off unless you trust it."""
    allow_pickle: bool = False
    """Read a model's .bin weights or an SAE's .pt, with torch's weights_only loader."""
    allow_mismatch: bool = False
    """Encode although an SAE was trained for another model, hook or scale."""

    def __post_init__(self) -> None:
        """Check that there is something to encode with."""
        super().__post_init__()
        if self.positions == "latents" and not self.sae:
            hint = "give --sae, or leave --positions out"
            raise UsageError("--positions latents", "an SAE for each layer to encode", "none", hint)


@dataclass(frozen=True)
class EncodeConfig(UnitsConfig):
    """`encode`: SAE latents of the captured tokens."""

    sae: tuple[str, ...] = ()
    """SAEs, one a captured layer: a directory, or a SAELens release and id like RELEASE/SAE_ID."""
    chunk_rows: int = 8192
    """Tokens that go through the SAE at a time."""
    allow_mismatch: bool = False
    """Encode although the SAE was trained for another model, hook or scale."""
    allow_pickle: bool = False
    """Read .pt weights, with torch's weights_only loader."""
    force: bool = False
    """Throw away existing features made with other settings."""


@dataclass(frozen=True)
class FrequencyConfig(StageConfig):
    """`frequency`: how often each latent fires on chosen and on rejected responses."""

    unit: Literal["token", "response"] = "token"
    """Rates are shares of response tokens, or of responses with at least one firing token."""
    val_fraction: float = 0.1
    """Share of prompts kept out of the rates, so that the head's validation split stays unseen."""
    seed: int = 0
    """Seed of that split."""


@dataclass(frozen=True)
class SelectConfig(StageConfig):
    """`select`: preference directions."""

    top_k: int = 64
    """Directions a side: this many preferred and this many dispreferred."""
    by: str = "difference"
    """Measure that ranks the latents."""
    seed: int = 0
    """Seed of the random controls and the bootstrap."""


@dataclass(frozen=True)
class HeadSetting:
    """What a head is fitted to and how; the defaults are those of `fit`."""

    pool: Literal["mean", "last", "both"] = "mean"
    """Which pooled vector of a response is projected."""
    head: Literal["linear", "mlp"] = "mlp"
    """A weight a direction, or one hidden layer."""
    loss: Literal["margin", "bt", "bce"] = "margin"
    """Margin loss (the paper's), Bradley-Terry, or binary cross-entropy."""


@dataclass(frozen=True)
class FitConfig(StageConfig):
    """`fit`: the reward head on projections."""

    choose: bool = False
    """Choose pool, head and loss by folds of the training prompts."""
    pool: Literal["mean", "last", "both"] | None = None
    """Which pooled vector of a response is projected; None is HeadSetting's default, or chosen."""
    head: Literal["linear", "mlp"] | None = None
    """A weight a direction, or one hidden layer; None likewise."""
    loss: Literal["margin", "bt", "bce"] | None = None
    """Margin loss, Bradley-Terry, or binary cross-entropy; None likewise."""
    val_fraction: float = 0.1
    """Share of prompts that choose the regularisation and stop the training."""
    seed: int = 0
    """Seed of the split, the first weights, the order of pairs and the folds that choose."""

    def __post_init__(self) -> None:
        """Check that what is to be chosen is not told as well."""
        super().__post_init__()
        if self.choose and self._told:
            expected = "no --pool, --head or --loss beside it, nor in sparserm.toml"
            found = ", ".join(f"--{name}" for name in self._told)
            raise UsageError("--choose", expected, found, "leave --choose out, or what it chooses")

    @property
    def setting(self) -> HeadSetting:
        """The setting of the head where it is told."""
        return HeadSetting(**self._told)

    @property
    def _told(self) -> dict[str, Any]:
        """The options of the setting that were given."""
        values = {one.name: getattr(self, one.name) for one in fields(HeadSetting)}
        return {name: value for name, value in values.items() if value is not None}
