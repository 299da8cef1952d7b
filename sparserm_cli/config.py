"""What each stage can be told: one frozen dataclass a stage, in the order of the pipeline.

The command line reads its defaults from these classes and the library takes them as they are. A sentence with
its unit stands below each field. Nothing heavy is imported here.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from sparserm_cli.errors import UsageError

STAGES = ("extract", "encode", "frequency", "select", "fit")
"""The stages that leave an artifact in the run directory, in order; `score` reads the last one."""

DEFAULT_MODEL = "smollm2-135m"
DEFAULT_RUN = Path("sparserm-run")

Progress = Callable[[int, int], None]
"""Called with (work done, work in all) as a stage advances; the unit is the stage's own."""


Note = Callable[[str], None]
"""Called with a sentence worth telling while a stage works."""


def default_run() -> Path:
    """Return `$SPARSERM_RUN` if set, else `./sparserm-run`."""
    return Path(os.environ.get("SPARSERM_RUN") or DEFAULT_RUN)


@dataclass(frozen=True)
class StageConfig:
    """What all stages share: the run directory and checks that read the field types."""

    run: Path = field(default_factory=default_run)
    """Run directory that holds the artifacts of all stages."""

    def __post_init__(self) -> None:
        """Check every field that has a fixed set of values or must be positive."""
        hints = get_type_hints(type(self))
        for item in fields(self):
            value, hint = getattr(self, item.name), hints[item.name]
            option = "--" + item.name.replace("_", "-")
            if get_origin(hint) is Literal and value not in get_args(hint):
                choices = ", ".join(str(choice) for choice in get_args(hint))
                raise UsageError(option, f"one of {choices}", repr(value), "correct the option")
            self._check_number(option, item.name, value)

    @staticmethod
    def _check_number(option: str, name: str, value: Any) -> None:
        if name.endswith("_fraction") and not 0 <= value < 1:
            raise UsageError(option, "a share from 0 up to, but not, 1", str(value), "correct the option")
        positive = name in {"top_k", "chunk_rows", "batch_tokens", "max_length", "limit", "unit_tokens"}
        if positive and value is not None and value < 1:
            raise UsageError(option, "a whole number of at least 1", str(value), "correct the option")


def parse_layers(text: str | None) -> tuple[int, ...] | None:
    """Read `"14"` or `"8,14,20"` as layer numbers counted from 0.

    Raises:
        UsageError: a part is no whole number of at least 0, or stands twice.

    """
    if text is None:
        return None
    parts = [part.strip() for part in str(text).split(",")]
    if not all(part.isdecimal() for part in parts) or len(set(parts)) != len(parts):
        raise UsageError(
            "--layer", "a layer or several with commas, like 14 or 8,14,20", repr(text), "correct the option"
        )
    return tuple(sorted(int(part) for part in parts))


def parse_worker(text: str | None) -> tuple[int, int]:
    """Read `"RANK/WORLD"`, such as `"0/4"`; nothing given is the one worker `(0, 1)`.

    Raises:
        UsageError: it does not read so, or the rank is not below the world size.

    """
    if text is None:
        return 0, 1
    rank, slash, world = text.partition("/")
    if not slash or not rank.isdecimal() or not world.isdecimal() or int(rank) >= int(world):
        raise UsageError(
            "--worker", "RANK/WORLD with RANK from 0 to WORLD - 1, like 0/4", repr(text), "correct the option"
        )
    return int(rank), int(world)


def column_map(columns: tuple[str, ...]) -> Mapping[str, str]:
    """Read `("prompt=question",)` as a mapping of our names to the file's.

    Raises:
        UsageError: a part has no equals sign or an empty side.

    """
    parts = {column: column.partition("=") for column in columns}
    for column, (ours, _, theirs) in parts.items():
        if not ours or not theirs:
            raise UsageError(
                "--column", "OURS=THEIRS, like prompt=question", repr(column), "correct the option"
            )
    return {ours: theirs for ours, _, theirs in parts.values()}


@dataclass(frozen=True)
class ExtractConfig(StageConfig):
    """`extract`: residual activations of preference pairs."""

    data: str = ""
    """Preference pairs: a .jsonl, .jsonl.gz, .json, .csv or .parquet file, or a Hugging Face data set."""
    model: str = DEFAULT_MODEL
    """Language model: smollm2-135m, a hub id (with @revision), a local directory or a .gguf file."""
    layer: tuple[int, ...] | None = None
    """Blocks, counted from 0, after which the residual stream is kept; None takes the layer of `sae`."""
    sae: tuple[str, ...] = ()
    """SAEs whose metadata give the layers when `layer` is left out, and contradict wrong ones."""
    positions: Literal["response", "pooled"] = "response"
    """response keeps every response token and the pooled vectors, pooled keeps only the pooled vectors."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type the model computes in; auto is bfloat16 where this machine multiplies it faster."""
    device: str = "auto"
    """Torch device; auto is cuda where there is one, else cpu."""
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
    worker: tuple[int, int] = (0, 1)
    """This worker's rank and the number of workers on one plan."""
    dry_run: bool = False
    """Stop after the plan and its price."""
    force: bool = False
    """Throw away an existing capture made with other settings."""
    offline: bool = False
    """Never call the hub."""
    remote_code: bool = False
    """Let a model run code of its own; off unless you trust it."""
    allow_pickle: bool = False
    """Read a model's .bin weights, with torch's weights_only loader."""


@dataclass(frozen=True)
class EncodeConfig(StageConfig):
    """`encode`: SAE latents of the captured tokens."""

    sae: tuple[str, ...] = ()
    """SAEs, one a captured layer: a directory, or a SAELens release and id like RELEASE/SAE_ID."""
    chunk_rows: int = 8192
    """Tokens that go through the SAE at a time."""
    device: str = "auto"
    """Torch device; auto is cuda where there is one, else cpu."""
    allow_mismatch: bool = False
    """Encode although the SAE was trained for another model, hook or scale."""
    allow_pickle: bool = False
    """Read .pt weights, with torch's weights_only loader."""
    worker: tuple[int, int] = (0, 1)
    """This worker's rank and the number of workers on one plan."""
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
class FitConfig(StageConfig):
    """`fit`: the reward head on projections."""

    pool: Literal["mean", "last", "both"] = "mean"
    """Which pooled vector of a response is projected."""
    head: Literal["linear", "mlp"] = "mlp"
    """A weight a direction, or one hidden layer."""
    loss: Literal["margin", "bt", "bce"] = "margin"
    """Margin loss (the paper's), Bradley-Terry, or binary cross-entropy."""
    val_fraction: float = 0.1
    """Share of prompts that choose the regularisation and stop the training."""
    seed: int = 0
    """Seed of the split, the first weights and the order of pairs."""


@dataclass(frozen=True)
class ScoreConfig(StageConfig):
    """`score`: rewards of new responses."""

    file: str = ""
    """Responses: any shape of data that `sparserm score --help` names."""
    reward: Path | None = None
    """Fitted reward model; None is the run directory's own."""
    output: str | None = None
    """Where the scores go, - for stdout; None is scores.jsonl in the run directory."""
    on_bad_row: Literal["error", "reject"] = "error"
    """Stop at a bad row, or leave it out and count it."""
    columns: tuple[str, ...] = ()
    """Column names of the data mapped onto ours, each like response=answer."""
    model: str | None = None
    """Where the model lies on this machine, if not where the reward model says; it must be the same model."""
    device: str = "auto"
    """Torch device; auto is cuda where there is one, else cpu."""
    batch_tokens: int | None = None
    """Tokens in one forward pass; None chooses by the machine."""
    deterministic: bool = False
    """Compute each prompt alone, so that scores are equal to the bit in any company."""
    limit: int | None = None
    """Most rows read; None reads all."""
    split: str = "train"
    """Split of a Hugging Face data set."""
    offline: bool = False
    """Never call the hub."""


@dataclass(frozen=True)
class EvaluateConfig(ScoreConfig):
    """`evaluate`: accuracy of the reward model on labelled data."""

    benchmark: Literal["pairs", "rm-bench", "reward-bench-2"] = "pairs"
    """Whose rules count: pairs won, RM-Bench's matrix, or RewardBench 2's best of four."""
    allow_overlap: bool = False
    """Evaluate although prompts were trained on."""


@dataclass(frozen=True)
class ExplainConfig(ScoreConfig):
    """`explain`: why one response got its score. It is row and response of `file`, or given as text."""

    row: int = 1
    """Row of the file, from 1."""
    response: int = 1
    """Response of the row, from 1; chosen ones come first."""
    prompt: str | None = None
    """A user's words, instead of a file."""
    response_text: str | None = None
    """The answer to them."""
    top: int = 10
    """Directions shown, those with the largest parts."""

    def __post_init__(self) -> None:
        """Check that one response is meant."""
        super().__post_init__()
        for name in ("row", "response", "top"):
            if getattr(self, name) < 1:
                found = str(getattr(self, name))
                raise UsageError(f"--{name}", "a whole number of at least 1", found, "correct the option")
        texts = {"--prompt": self.prompt, "--response-text": self.response_text}
        given = ["FILE"] * bool(self.file) + [name for name, text in texts.items() if text is not None]
        if given not in (["FILE"], list(texts)):
            expected, found = "FILE, or --prompt and --response-text", " and ".join(given) or "nothing"
            raise UsageError("explain", expected, found, "name one response")


@dataclass(frozen=True)
class ReportConfig(StageConfig):
    """`report`: one page that shows what a run has found."""

    reward: Path | None = None
    """Fitted reward model; None is the run directory's own."""
    evaluation: Path | None = None
    """What `evaluate` wrote; None is evaluation.json in the run directory."""
    comparison: Path | None = None
    """What `compare` wrote; None is comparison.json in the run directory."""
    output: Path | None = None
    """The page; None is report.html in the run directory."""
    model: str | None = None
    """Where the model lies on this machine, for its tokenizer, if not where the capture says."""
    offline: bool = False
    """Never call the hub."""


CONFIGS: dict[str, type[StageConfig]] = {
    "extract": ExtractConfig,
    "encode": EncodeConfig,
    "frequency": FrequencyConfig,
    "select": SelectConfig,
    "fit": FitConfig,
    "score": ScoreConfig,
    "evaluate": EvaluateConfig,
}
