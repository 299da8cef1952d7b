"""Configs of what scores responses with a fitted reward model, and of what makes another one of it."""

from dataclasses import dataclass
from typing import Annotated

from sparserm_cli.config import shared
from sparserm_cli.config.base import EngineConfig, StageConfig
from sparserm_cli.config.option import AT_LEAST_1, DATA, OUTPUT, Option, check_fields
from sparserm_cli.errors import UsageError


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
    group: shared.Group = None
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
    parts: Annotated[
        bool,
        Option("Also give what each group of directions adds to the score, which is the sum.", OUTPUT),
    ] = False
    part_groups: shared.PartGroups = shared.PART_GROUPS
    projections: bool = False
    """Whether the log keeps the standardised projections of each response and the key of its prompt."""


_DERIVED = Annotated[
    str,
    Option(
        "Folder that the new reward model is written to.",
        OUTPUT,
        metavar="PATH|URL",
        required=True,
        path="always",
    ),
]


@dataclass(frozen=True)
class EditConfig(ResponsesConfig):
    """`edit`: a new reward model in which some directions count less, more or not at all."""

    file: Annotated[
        str,
        Option(
            "Preference pairs on which the old and the new reward model are compared as well.",
            DATA,
            flag="--on",
            shown="validation pairs only",
            path="always",
        ),
    ] = ""
    drop: Annotated[
        tuple[str, ...],
        Option(
            "Direction that no longer counts, as LAYER:LATENT; several are separated by commas, or the "
            "option is repeated.",
            metavar="LAYER:LATENT",
        ),
    ] = ()
    drop_named: Annotated[
        tuple[str, ...],
        Option(
            "Text; directions whose names by `sparserm describe` contain it no longer count; the option may "
            "be repeated.",
            metavar="TEXT",
        ),
    ] = ()
    scale: Annotated[
        tuple[str, ...],
        Option(
            "Direction with the factor by which its part is multiplied, like 14:3450=0.5; the option may be "
            "repeated.",
            metavar="LAYER:LATENT=FACTOR",
        ),
    ] = ()
    keep_only: Annotated[
        tuple[str, ...],
        Option("Direction that still counts, while all others are dropped.", metavar="LAYER:LATENT"),
    ] = ()
    refit: Annotated[
        bool,
        Option("Fit the head again without the dropped directions, on the pairs of the run."),
    ] = False
    output: _DERIVED = ""
    force: Annotated[bool, Option("Replace a reward model that is there.", OUTPUT)] = False

    def __post_init__(self) -> None:
        """Check that something is to be changed, and by one of two ways.

        Raises:
            UsageError: no direction is named, two options exclude each other, or a value is out of range.

        """
        super().__post_init__()
        if not (self.drop or self.drop_named or self.scale or self.keep_only):
            hint = "name a direction; `sparserm explain` lists them"
            raise UsageError("edit", "--drop, --drop-named, --scale or --keep-only", "none of them", hint)
        if self.refit and self.scale:
            hint = "leave one of them out: a new fit would choose its own weight for a scaled direction"
            raise UsageError("--refit", "no --scale beside it", "--scale", hint)


@dataclass(frozen=True)
class AdaptConfig(ResponsesConfig):
    """`adapt`: a new reward model whose head has moved towards a few labelled pairs."""

    file: Annotated[
        str,
        Option(
            "Preference pairs of the user, domain or rubric to adapt to; 5 to 200 are enough.",
            DATA,
            argument=True,
            required=True,
            path="always",
        ),
    ] = ""
    repeats: Annotated[
        int,
        Option("Number of times that the pairs are divided into inner folds.", check=AT_LEAST_1),
    ] = 5
    seed: Annotated[int, Option("Seed of the inner folds.")] = 0
    output: _DERIVED = ""
    force: Annotated[bool, Option("Replace a reward model that is there.", OUTPUT)] = False
