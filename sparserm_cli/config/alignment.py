"""Configs of where a reward is used: rank, pairs, suggest, doctor."""

from dataclasses import dataclass
from pathlib import PurePath
from typing import Annotated, Literal

from sparserm_cli.config import shared
from sparserm_cli.config.base import DEFAULT_MODEL, StageConfig
from sparserm_cli.config.option import AT_LEAST_1, DATA, LIMITS, MODEL, NOT_NEGATIVE, OUTPUT, RATIO, Option
from sparserm_cli.config.scoring import ResponsesConfig
from sparserm_cli.errors import UsageError


@dataclass(frozen=True)
class RankConfig(ResponsesConfig):
    """`rank`: best of n."""

    output: Annotated[
        str | None,
        Option(
            "File the ranking is written to; - writes it to stdout.",
            OUTPUT,
            shown="RUN/ranking.jsonl",
            path="always",
        ),
    ] = None


@dataclass(frozen=True)
class PairsConfig(ResponsesConfig):
    """`pairs`: preference pairs from scored responses."""

    to: Annotated[
        Literal["trl", "openrlhf", "verl"], Option("Trainer whose format the pairs are written in.", OUTPUT)
    ] = "trl"
    margin: Annotated[
        float,
        Option(
            "Least difference between the scores of the chosen and the rejected response, in units of the "
            "reward model.",
            check=NOT_NEGATIVE,
            metavar="SCORE",
        ),
    ] = 0.0
    length_ratio: Annotated[
        float | None,
        Option(
            "Largest ratio of the longer response's characters to those of the shorter one, like 1.2.",
            check=RATIO,
            shown="lengths are not matched",
        ),
    ] = None
    abstain: shared.Abstain = None
    output: Annotated[
        str | None,
        Option(
            "File the pairs are written to.", OUTPUT, shown="RUN/pairs.jsonl, verl: .parquet", path="always"
        ),
    ] = None


@dataclass(frozen=True)
class SuggestConfig(ResponsesConfig):
    """`suggest`: the pairs whose labels would tell the reward model the most."""

    count: Annotated[int, Option("Number of pairs that are suggested.", LIMITS, check=AT_LEAST_1)] = 50
    output: Annotated[
        str | None,
        Option(
            "File the suggested pairs are written to; - writes them to stdout.",
            OUTPUT,
            shown="RUN/suggestions.jsonl",
            path="always",
        ),
    ] = None


@dataclass(frozen=True)
class DoctorConfig(StageConfig):
    """`doctor`: what a model is sensitive to."""

    model: Annotated[
        str,
        Option(
            shared.MODEL_HELP,
            MODEL,
            argument=True,
            required=True,
            path="perhaps",
        ),
    ] = DEFAULT_MODEL
    layer: Annotated[
        tuple[int, ...] | None,
        Option(
            "Transformer blocks, counted from 0, after which the residual stream is taken.",
            MODEL,
            metavar="L[,L...]",
            shown="the middle one",
        ),
    ] = None
    reward: Annotated[
        PurePath | None,
        Option(
            "Reward model of that model: its scores are compared too, and it gives the layers.",
            MODEL,
            metavar="PATH|URL",
            shown="vectors only",
            path="always",
        ),
    ] = None
    data: Annotated[
        str,
        Option("Rows of any shape that are tried.", DATA, shown="a few conversations", path="perhaps"),
    ] = ""
    columns: shared.Columns = ()
    limit: Annotated[int, Option("Try at most this many rows.", DATA, check=AT_LEAST_1)] = 16
    max_length: int = 1024
    """Most tokens of a prompt and one response together."""
    template: Annotated[
        str | None,
        Option(
            "Chat template: the path of a Jinja file.",
            MODEL,
            metavar="FILE",
            shown="the model's own",
            path="perhaps",
        ),
    ] = None
    device: shared.Device = "auto"
    offline: shared.Offline = False

    def __post_init__(self) -> None:
        """Check that the layers are given once, and that there is a template to be without.

        Raises:
            UsageError: two options exclude each other, or a value is out of range.

        """
        super().__post_init__()
        if self.layer is not None and self.reward is not None:
            raise UsageError("--layer", "no layer, since --reward has its own", "both", "leave one out")
        if self.template is not None and self.reward is not None:
            raise UsageError("--template", "none, since --reward has its own", "both", "leave one out")
        if self.template == "raw":
            raise UsageError("--template", "a Jinja file", "raw", "leave it out: raw is tried anyway")
