"""Configs of what scores responses with a fitted reward model."""

import math
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

from sparserm_cli.config.base import EngineConfig, StageConfig
from sparserm_cli.errors import UsageError


@dataclass(frozen=True)
class Guards:
    """What is done to rewards before something is optimised against them."""

    normalize: bool = False
    """Count scores in standard deviations of the training responses' scores, from their mean."""
    clip: float | None = None
    """Largest score and, negated, the smallest, after normalising; None leaves them as they are."""
    abstain: float | None = None
    """Largest `ood` that still gets a score, 99 % of training responses being below 1; None scores all."""

    def __post_init__(self) -> None:
        """Check the two limits."""
        for name in ("clip", "abstain"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise UsageError(f"--{name}", "a number above 0", str(value), "correct the option")


@dataclass(frozen=True)
class ResponsesConfig(StageConfig):
    """What all have that read responses and compute on them."""

    file: str = ""
    """Responses: any shape of data that `sparserm score --help` names."""
    reward: PurePath | None = None
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
    """Torch device; auto is cuda where there is one, else cpu; balanced or a JSON file shares the model's
    blocks among several."""
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
class ScoreConfig(ResponsesConfig, EngineConfig, Guards):
    """`score`: rewards of new responses."""

    tokens: bool = False
    """Also give a reward for each token of a response."""

    def __post_init__(self) -> None:
        """Check what both parents have."""
        EngineConfig.__post_init__(self)
        Guards.__post_init__(self)
