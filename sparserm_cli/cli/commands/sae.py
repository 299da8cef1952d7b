"""The command that trains a sparse autoencoder: train-sae."""

from dataclasses import fields
from pathlib import Path
from typing import Annotated

import typer

from sparserm_cli.cli import options as opt
from sparserm_cli.cli.commands import train_options
from sparserm_cli.cli.output import sae as show
from sparserm_cli.cli.parsing import begin
from sparserm_cli.config import DEFAULT_MODEL, DEFAULT_RUN, StageConfig
from sparserm_cli.config.train_sae import SAERecipe


def train_sae(
    ctx: typer.Context,
    output: Annotated[Path, typer.Option(help="Folder of the new SAE.")],
    data: train_options.DataArgument = None,
    layer: Annotated[int | None, typer.Option(help="Block, from 0.", show_default="the run's")] = None,
    model: Annotated[str, typer.Option(help="Language model, as for extract.")] = DEFAULT_MODEL,
    architecture: train_options.ArchitectureOption = SAERecipe.architecture,
    d_sae: Annotated[int | None, typer.Option(help="Latents.", show_default="8 times d_in")] = None,
    k: Annotated[int, typer.Option(help="Latents active on a token.")] = SAERecipe.k,
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = SAERecipe.steps,
    batch_rows: Annotated[int, typer.Option(help="Tokens in a step.")] = SAERecipe.batch_rows,
    lr: Annotated[float, typer.Option(help="Highest learning rate.")] = SAERecipe.lr,
    warm_up_steps: train_options.WarmUpOption = SAERecipe.warm_up_steps,
    held_out_fraction: train_options.HeldOutOption = SAERecipe.held_out_fraction,
    l0_coefficient: train_options.L0Option = SAERecipe.l0_coefficient,
    buffer_rows: Annotated[int, typer.Option(help="Most tokens held in memory.")] = SAERecipe.buffer_rows,
    context_size: Annotated[int, typer.Option(help="Longest text, in tokens.")] = SAERecipe.context_size,
    weights_dtype: train_options.WeightsOption = SAERecipe.weights_dtype,
    seed: opt.SeedOption = SAERecipe.seed,
    test: train_options.TestOption = None,
    test_limit: Annotated[int | None, typer.Option(help="Most rows of each.", show_default="all")] = None,
    limit: opt.LimitOption = None,
    split: opt.SplitOption = "train",
    template: opt.TemplateOption = None,
    device: opt.DeviceOption = "auto",
    offline: opt.OfflineOption = False,
    run: opt.RunOption = DEFAULT_RUN,
    config: opt.ConfigOption = None,
    json: opt.JsonOption = False,
    quiet: opt.QuietOption = False,
) -> None:
    """Train an SAE with SAELens' own trainer.

    Example: sparserm train-sae pairs.jsonl --layer 14 --output sae/mine --steps 4000
    """
    settings, out = begin(ctx, StageConfig)
    recipe = SAERecipe(
        **{one.name: ctx.params[one.name] for one in fields(SAERecipe) if one.name in ctx.params}
    )
    from sparserm_cli.stages.train_sae.train_sae import train_sae as stage

    with out.phases("tokens") as progress:
        made = stage(
            data or (),
            output,
            layer=layer,
            model=model,
            recipe=recipe,
            tests=test or (),
            test_limit=test_limit,
            limit=limit,
            split=split,
            template=template,
            device=device,
            offline=offline,
            run=settings.run,
            progress=progress,
        )
    show.train_sae(out, made)
