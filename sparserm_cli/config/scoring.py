"""Configs of what scores responses with a fitted reward model."""

from dataclasses import dataclass
from typing import Annotated

from sparserm_cli.config import shared
from sparserm_cli.config.base import EngineConfig, StageConfig
from sparserm_cli.config.option import OUTPUT, Option, check_fields


@dataclass(frozen=True)
class ScoreLimits:
    """How scores are normalised, clipped or withheld before something is optimised against them."""

    normalize: shared.Normalize = False
    clip: shared.Clip = None
    abstain: shared.Abstain = None

    def __post_init__(self) -> None:
        """Check the limits.

        Raises:
            UsageError: one of them is not above 0.

        """
        check_fields(self)


@dataclass(frozen=True)
class ResponsesConfig(StageConfig):
    """Fields of all commands that read responses and compute on them."""

    file: shared.Responses = ""
    reward: shared.Reward = None
    output: str | None = None
    """Path of the result; commands that let the user choose it declare it as an option."""
    on_bad_row: shared.OnBadRow = "error"
    columns: shared.Columns = ()
    model: shared.MovedModel = None
    device: shared.Device = "auto"
    batch_tokens: shared.BatchTokens = None
    deterministic: shared.Deterministic = False
    limit: shared.Limit = None
    split: shared.Split = "train"
    offline: shared.Offline = False


@dataclass(frozen=True)
class ScoreConfig(ResponsesConfig, EngineConfig, ScoreLimits):
    """`score`: rewards of new responses."""

    output: Annotated[
        str | None,
        Option(
            "File the scores are written to; - writes them to stdout.",
            OUTPUT,
            shown="RUN/scores.jsonl",
            path="always",
        ),
    ] = None
    tokens: Annotated[
        bool, Option("Also give a reward per token; the rewards of the tokens add up to the score.", OUTPUT)
    ] = False
    projections: bool = False
    """Whether the log keeps the standardised projections of each response and the key of its prompt."""
