"""Configs of what measures, compares and explains a reward model: evaluate, compare, explain, report."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

from sparserm_cli.config.base import StageConfig
from sparserm_cli.config.pipeline import FrequencyConfig, HeadSetting, SelectConfig
from sparserm_cli.config.scoring import ResponsesConfig
from sparserm_cli.errors import UsageError
from sparserm_cli.locations import place


@dataclass(frozen=True)
class EvaluateConfig(ResponsesConfig):
    """`evaluate`: accuracy of the reward model on labelled data."""

    benchmark: Literal["pairs", "rm-bench", "reward-bench-2"] = "pairs"
    """Whose rules count: pairs won, RM-Bench's matrix, or RewardBench 2's best of four."""
    allow_overlap: bool = False
    """Evaluate although prompts were trained on."""


USUAL_SWEEPS = ("directions", "methods", "variants", "labels", "noise", "layers", "saes", "transfer")
"""What `compare` tries."""


SWEEPS = (*USUAL_SWEEPS, "choice", "lora")
"""What it can try: `choice` fits every setting many times, `lora` trains the whole model: both are tried only
if asked for."""


@dataclass(frozen=True)
class CompareConfig(StageConfig):
    """`compare`: SparseRM beside everything it must beat, cross-validated over prompts."""

    name: str | None = None
    """What tables call the run; None is the name of its directory."""
    other: tuple[str, ...] = ()
    """Other runs, each as NAME=RUN: what is fitted on this one is tested on them; of those of one capture the
    SAEs are compared instead."""
    sweep: tuple[str, ...] = USUAL_SWEEPS
    """What is tried, of SWEEPS."""
    quick: bool = False
    """Only two points of the sweep over directions, the methods and the other runs."""
    layer: tuple[int, ...] | None = None
    """Layers that everything but the sweeps `layers` and `choice` uses; None for all that are encoded."""
    top_k: tuple[int, ...] = (4, 8, 16, 32, 64, 128, 256, 512)
    """Directions a side that are tried."""
    by: str = SelectConfig.by
    """Measure that selects SparseRM's latents."""
    unit: Literal["token", "response"] = FrequencyConfig.unit
    """What their rates are shares of."""
    pool: Literal["mean", "last", "both"] = HeadSetting.pool
    """Which pooled vector SparseRM and its controls project."""
    head: Literal["linear", "mlp"] = "linear"
    """Their head; a linear one is convex and fast."""
    loss: Literal["margin", "bt", "bce"] = "bt"
    """Their loss."""
    folds: int = 5
    """Parts of the prompts, each tested once."""
    train_pairs: int | None = None
    """Most pairs learned from in a fold, drawn at random; None for all."""
    seed: int = 0
    """Of the folds and of everything random in a fit."""

    def __post_init__(self) -> None:
        """Check the lists."""
        super().__post_init__()
        for one in self.sweep:
            if one not in SWEEPS:
                raise UsageError("--sweep", f"one of {', '.join(SWEEPS)}", repr(one), "correct the option")
        self.named_runs()

    def named_runs(self) -> Mapping[str, PurePath]:
        """Return name to run directory of the other runs.

        Raises:
            UsageError: one does not read NAME=RUN.

        """
        parts = {one: one.partition("=") for one in self.other}
        for one, (name, _, folder) in parts.items():
            if not name or not folder:
                raise UsageError("--other", "NAME=RUN", repr(one), "correct the option")
        return {name: place(folder) for name, _, folder in parts.values()}


@dataclass(frozen=True)
class ExplainConfig(ResponsesConfig):
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

    reward: PurePath | None = None
    """Fitted reward model; None is the run directory's own."""
    evaluation: PurePath | None = None
    """What `evaluate` wrote; None is evaluation.json in the run directory."""
    comparison: PurePath | None = None
    """What `compare` wrote; None is comparison.json in the run directory."""
    output: PurePath | None = None
    """The page; None is report.html in the run directory."""
    model: str | None = None
    """Where the model lies on this machine, for its tokenizer, if not where the capture says."""
    offline: bool = False
    """Never call the hub."""
