"""Configs of what looks after the run directory as a whole: status, verify, repair, export, import."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from sparserm_cli.config import shared
from sparserm_cli.config.base import StageConfig
from sparserm_cli.config.option import (
    AT_LEAST_1,
    CARD,
    DATA,
    FINITE,
    LIMITS,
    METHOD,
    MODEL,
    NOT_NEGATIVE,
    OUTPUT,
    Option,
)
from sparserm_cli.errors import UsageError


@dataclass(frozen=True)
class RunConfig(StageConfig):
    """`run`: all stages that leave an artifact; None is as sparserm.toml says, else the default."""

    data: Annotated[
        str | None,
        Option(
            "Preference pairs: a .jsonl, .jsonl.gz, .json, .csv or .parquet file, or a Hugging Face data "
            "set.",
            DATA,
            argument=True,
            shown="[extract] data in sparserm.toml",
            path="perhaps",
        ),
    ] = None
    columns: shared.Columns = ()
    split: Annotated[
        str | None, Option("Split of a Hugging Face data set that is read.", DATA, shown="train")
    ] = None
    limit: shared.Limit = None
    model: Annotated[
        str | None,
        Option(
            shared.MODEL_HELP,
            MODEL,
            shown="smollm2-135m",
            path="perhaps",
        ),
    ] = None
    layer: shared.Layers = None
    sae: Annotated[
        tuple[str, ...],
        Option(
            "SAE: smollm2-135m, a directory, or a SAELens release and id like RELEASE/SAE_ID; repeat the "
            "option for further layers.",
            MODEL,
            metavar="SAE",
            shown="that of the default model",
            path="perhaps",
        ),
    ] = ()
    device: Annotated[
        str | None, Option("Torch device, as for extract: auto, cpu, cuda, cuda:1, mps.", MODEL, shown="auto")
    ] = None
    offline: Annotated[bool, Option("Never call the hub; use what is on this machine.", MODEL)] = False
    top_k: Annotated[
        int | None,
        Option(
            "Number of directions per side: this many preferred and this many dispreferred.",
            check=AT_LEAST_1,
            shown="64",
        ),
    ] = None
    write_config: Annotated[
        Path | None,
        Option("Write a settings file with these options, run nothing, and say what to run.", OUTPUT),
    ] = None


@dataclass(frozen=True)
class EnvConfig(StageConfig):
    """`env`: what this machine has."""


@dataclass(frozen=True)
class CacheConfig(StageConfig):
    """`cache`: what was fetched and converted once and is kept."""

    prune: Annotated[bool, Option("Remove entries that were not used for --older-than days.", LIMITS)] = False
    older_than: Annotated[
        float,
        Option("Days without use after which --prune removes an entry.", LIMITS, check=NOT_NEGATIVE),
    ] = 30.0


@dataclass(frozen=True)
class StatusConfig(StageConfig):
    """`status`: the chain of artifacts and what to run next."""

    deep: Annotated[bool, Option("Compare the content of input files, however large they are.", LIMITS)] = (
        False
    )


@dataclass(frozen=True)
class VerifyConfig(StageConfig):
    """`verify`: whether every byte is there that the run directory promises."""

    deep: shared.Deep = False


@dataclass(frozen=True)
class RepairConfig(StageConfig):
    """`repair`: damaged units are given up, so that they are computed again."""


@dataclass(frozen=True)
class ExportConfig(StageConfig):
    """`export`: an artifact in other programs' formats."""

    target: Annotated[
        Path,
        Option(
            "File of a capture (.h5 holds everything, .npz and .safetensors hold pooled vectors), with --to "
            "the folder of a reward model, or the .gguf file of a control vector.",
            OUTPUT,
            argument=True,
            required=True,
            path="always",
        ),
    ] = Path()
    to: Annotated[
        Literal["capture", "hf", "hub-folder", "control-vector"],
        Option(
            "Export the capture as one file (capture), the reward model for transformers (hf), that with a "
            "model card, ready for a model hub (hub-folder), or a vector with which llama.cpp steers the "
            "language model towards the reward (control-vector).",
            OUTPUT,
        ),
    ] = "capture"
    strength: Annotated[
        float | None,
        Option(
            "Length of the control vector, in multiples of the mean norm of the residual stream at its "
            "layer; a negative one steers away.",
            METHOD,
            check=FINITE,
            shown="0.1",
        ),
    ] = None
    reward: shared.Reward = None
    group: shared.Group = None
    model: shared.MovedModel = None
    base_model: Annotated[
        str | None, Option("Hub id of the language model, for the card.", CARD, shown="the fit's")
    ] = None
    licence: Annotated[
        str | None,
        Option(
            "Licence of the exported model, like apache-2.0; a hub-folder needs it.",
            CARD,
            aliases=("--license",),
        ),
    ] = None
    dataset: Annotated[
        tuple[str, ...],
        Option("Hub id of training data, for the card; the option may be repeated.", CARD),
    ] = ()
    force: Annotated[bool, Option("Replace an earlier export.", OUTPUT)] = False
    offline: shared.Offline = False

    def __post_init__(self) -> None:
        """Check that a card for a hub can be written, and that a strength has a vector.

        Raises:
            UsageError: the licence is missing, a strength has no vector, or a value is out of range.

        """
        super().__post_init__()
        if self.strength is not None and self.to != "control-vector":
            raise UsageError("--strength", "--to control-vector beside it", self.to, "leave it out")
        if self.to == "hub-folder" and self.licence is None:
            raise UsageError("--licence", "the licence for the card, like apache-2.0", "none", "give it")


@dataclass(frozen=True)
class ImportConfig(StageConfig):
    """`import`: an exported capture becomes that of the run directory."""

    source: Annotated[
        Path,
        Option("HDF5 file that `sparserm export` wrote.", DATA, argument=True, required=True, path="always"),
    ] = Path()
    force: shared.Force = False
