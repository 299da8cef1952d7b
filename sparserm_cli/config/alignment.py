"""Configs of where a reward is used: rank, pairs, export, doctor."""

from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal

from sparserm_cli.config.base import DEFAULT_MODEL, StageConfig
from sparserm_cli.config.scoring import ResponsesConfig
from sparserm_cli.errors import UsageError


@dataclass(frozen=True)
class RankConfig(ResponsesConfig):
    """`rank`: best of n. `output` None is ranking.jsonl in the run directory."""


@dataclass(frozen=True)
class PairsConfig(ResponsesConfig):
    """`pairs`: preference pairs from scored responses. `output` None is pairs.jsonl or .parquet in `run`."""

    to: Literal["trl", "openrlhf", "verl"] = "trl"
    """Whose format the pairs are written in."""
    margin: float = 0.0
    """Least score of chosen above rejected, in the reward model's units."""
    length_ratio: float | None = None
    """Most characters of the longer response for one of the shorter; None matches no lengths."""
    abstain: float | None = None
    """Largest `ood` of a response in a pair, 99 % of training responses being below 1; None takes all."""

    def __post_init__(self) -> None:
        """Check the limits."""
        super().__post_init__()
        if not self.margin >= 0:
            raise UsageError("--margin", "a number of at least 0", str(self.margin), "correct the option")
        if self.length_ratio is not None and not self.length_ratio >= 1:
            found = str(self.length_ratio)
            raise UsageError("--length-ratio", "a number of at least 1", found, "correct the option")
        if self.abstain is not None and not self.abstain > 0:
            raise UsageError("--abstain", "a number above 0", str(self.abstain), "correct the option")


@dataclass(frozen=True)
class ExportConfig(StageConfig):
    """`export`: an artifact in other programs' formats."""

    target: Path = Path()
    """File of a capture, or folder of a reward model."""
    to: Literal["capture", "hf", "hub-folder"] = "capture"
    """The capture as one file, the reward model for transformers, or that with what a model hub wants."""
    reward: PurePath | None = None
    """Fitted reward model; None is the run directory's own."""
    model: str | None = None
    """Where the model lies on this machine, if not where the reward model says; it must be the same model."""
    base_model: str | None = None
    """Hub id of the language model, for the card; None is the one of the fit."""
    licence: str | None = None
    """Licence of the exported model, for the card, such as apache-2.0."""
    dataset: tuple[str, ...] = ()
    """Hub ids of the training data, for the card."""
    force: bool = False
    """Replace an earlier export."""
    offline: bool = False
    """Never call the hub."""

    def __post_init__(self) -> None:
        """Check that a card for a hub can be written."""
        super().__post_init__()
        if self.to == "hub-folder" and self.licence is None:
            raise UsageError("--licence", "the licence for the card, like apache-2.0", "none", "give it")


@dataclass(frozen=True)
class DoctorConfig(StageConfig):
    """`doctor`: what a model is sensitive to."""

    model: str = DEFAULT_MODEL
    """Language model, as for extract."""
    layer: tuple[int, ...] | None = None
    """Blocks, from 0, after which the residual stream is taken; None takes the middle one."""
    reward: PurePath | None = None
    """Reward model of that model, whose scores are compared too; it gives the layers."""
    data: str = ""
    """Rows to try, of any shape; none are a few conversations of our own."""
    columns: tuple[str, ...] = ()
    """Column names of the data mapped onto ours, each like response=answer."""
    limit: int = 16
    """Most rows tried."""
    max_length: int = 1024
    """Most tokens of a prompt and one response together."""
    template: str | None = None
    """Chat template: None is the model's own, else the path of a Jinja file."""
    device: str = "auto"
    """Torch device; auto is cuda where there is one, else cpu; balanced or a JSON file shares the model's
    blocks among several."""
    offline: bool = False
    """Never call the hub."""

    def __post_init__(self) -> None:
        """Check that the layers are said once, and that there is a template to be without."""
        super().__post_init__()
        if self.layer is not None and self.reward is not None:
            raise UsageError("--layer", "no layer, since --reward has its own", "both", "leave one out")
        if self.template is not None and self.reward is not None:
            raise UsageError("--template", "none, since --reward has its own", "both", "leave one out")
        if self.template == "raw":
            raise UsageError("--template", "a Jinja file", "raw", "leave it out: raw is tried anyway")
