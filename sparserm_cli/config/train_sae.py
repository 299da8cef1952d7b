"""Config of `train-sae`: what an SAE is trained on and with."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

from sparserm_cli.config import shared
from sparserm_cli.config.base import DEFAULT_MODEL, StageConfig
from sparserm_cli.config.option import (
    AT_LEAST_1,
    DATA,
    INNER_SHARE,
    LIMITS,
    MODEL,
    OUTPUT,
    TRAINING,
    Check,
    Option,
    check_fields,
)

SIZE = Check("more than 0", lambda value: value > 0)


@dataclass(frozen=True)
class SAERecipe:
    """Settings of one training, which stand in the SAE's metadata."""

    architecture: Annotated[
        Literal["topk", "batchtopk", "jumprelu"] | None,
        Option(
            "Kind of SAE, by SAELens' names; a batchtopk SAE is saved as jumprelu.",
            TRAINING,
            shown="topk, or that of --from",
        ),
    ] = None
    d_sae: Annotated[
        int | None,
        Option("Number of latents.", TRAINING, check=SIZE, shown="8 times d_in, or that of --from"),
    ] = None
    k: Annotated[
        int | None,
        Option(
            "Number of latents active per token: at most (topk), on average (batchtopk) or aimed at "
            "(jumprelu).",
            TRAINING,
            check=SIZE,
            shown="64, or that of --from",
        ),
    ] = None
    steps: Annotated[int, Option("Number of optimiser steps.", TRAINING, check=SIZE)] = 4000
    batch_rows: Annotated[int, Option("Number of tokens per step.", TRAINING, check=SIZE)] = 1024
    lr: Annotated[
        float | None,
        Option(
            "Highest learning rate of Adam, which falls linearly to zero over the last fifth of the steps.",
            TRAINING,
            check=SIZE,
            shown="0.002, or 0.0001 with --from",
        ),
    ] = None
    warm_up_steps: Annotated[
        int, Option("Number of steps over which the learning rate rises from zero.", TRAINING, check=SIZE)
    ] = 100
    l0_coefficient: Annotated[
        float, Option("Weight of the sparsity loss (jumprelu only).", TRAINING, check=SIZE)
    ] = 1.0
    buffer_rows: Annotated[
        int,
        Option("Largest number of tokens held in memory, at 2 * d_in bytes each.", LIMITS, check=SIZE),
    ] = 1_000_000
    context_size: Annotated[
        int,
        Option(
            "Longest sequence, in tokens; longer texts are cut into pieces, conversations at their end.",
            LIMITS,
            check=SIZE,
        ),
    ] = 1024
    held_out_fraction: Annotated[
        float,
        Option(
            "Share of the documents that is kept out of the training and measured at the end.",
            DATA,
            check=INNER_SHARE,
        ),
    ] = 0.05
    autocast: bool | None = None
    """Multiply in bfloat16; None does so where the machine is faster that way."""
    weights_dtype: Annotated[
        Literal["float32", "bfloat16"],
        Option("Number type of the saved weights, which are the ones that are measured.", OUTPUT),
    ] = "float32"
    seed: Annotated[int, Option("Seed of the first weights and of the order of the tokens.", TRAINING)] = 0

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            UsageError: a number is out of range; it is named with its option.

        """
        check_fields(self)


@dataclass(frozen=True)
class TrainSAEConfig(StageConfig, SAERecipe):
    """`train-sae`: an SAE for a model that has none, or one of another model trained on."""

    data: Annotated[
        tuple[str, ...],
        Option(
            "Text to train on: .txt files, rows with a text, preferences or responses of any shape, or a "
            "data set.",
            DATA,
            argument=True,
            shown="the run's captured tokens",
            path="perhaps",
        ),
    ] = ()
    output: Annotated[Path, Option("Folder of the new SAE.", OUTPUT, required=True, path="always")] = Path()
    layer: Annotated[
        int | None,
        Option(
            "Transformer block, counted from 0, whose output the SAE encodes.",
            MODEL,
            shown="the run's, or that of --from",
        ),
    ] = None
    start: Annotated[
        str | None,
        Option(
            "SAE whose training is continued on this model and text, such as one of the base model: a "
            "folder, or RELEASE/SAE_ID of SAELens.",
            TRAINING,
            flag="--from",
            path="perhaps",
            shown="random weights",
        ),
    ] = None
    model: shared.Model = DEFAULT_MODEL
    tests: Annotated[
        tuple[str, ...],
        Option(
            "Further text that is only measured; the option may be repeated.",
            DATA,
            flag="--test",
            path="perhaps",
        ),
    ] = ()
    test_limit: Annotated[
        int | None,
        Option("Read at most this many rows of each further text.", DATA, check=AT_LEAST_1, shown="all"),
    ] = None
    limit: shared.Limit = None
    split: shared.Split = "train"
    template: shared.Template = None
    device: shared.Device = "auto"
    allow_pickle: Annotated[
        bool, Option("Read a .pt file of the SAE to start from, with weights_only.", MODEL)
    ] = False
    offline: shared.Offline = False

    @property
    def recipe(self) -> SAERecipe:
        """The settings of the training alone."""
        return SAERecipe(**{item.name: getattr(self, item.name) for item in fields(SAERecipe)})
