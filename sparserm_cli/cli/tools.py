"""Commands beside the pipeline: train-sae, export, import."""

from dataclasses import fields
from pathlib import Path
from typing import Annotated

import typer

from sparserm_cli.cli import align_reports, chain_reports, spine_reports, train_options, use
from sparserm_cli.cli import options as opt
from sparserm_cli.config import DEFAULT_MODEL, DEFAULT_RUN, ExportConfig, StageConfig
from sparserm_cli.models.sae_recipe import SAERecipe


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
    settings, out = opt.begin(ctx, StageConfig)
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
    spine_reports.train_sae(out, made)


def export(
    ctx: typer.Context,
    target: Annotated[
        Path,
        typer.Argument(
            help="File: .h5 for everything, .npz or .safetensors for pooled vectors. With --to a folder."
        ),
    ],
    to: Annotated[
        str, typer.Option(metavar="capture|hf|hub-folder", help="What is exported, and for what.")
    ] = ExportConfig.to,
    reward: opt.RewardOption = None,
    model: use.ModelOption = None,
    base_model: Annotated[
        str | None,
        typer.Option(help="Hub id of the language model, for the card.", show_default="the fit's"),
    ] = None,
    licence: Annotated[
        str | None, typer.Option(help="Licence for the card, like apache-2.0; hub-folder needs it.")
    ] = None,
    dataset: Annotated[
        list[str] | None, typer.Option(help="Hub id of training data, for the card. Repeatable.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export.")] = False,
    offline: opt.OfflineOption = False,
    run: opt.RunOption = DEFAULT_RUN,
    config: opt.ConfigOption = None,
    json: opt.JsonOption = False,
    quiet: opt.QuietOption = False,
) -> None:
    """Write the capture to one file, or the reward model as a folder for transformers or a model hub.

    `--to hf` gives a folder that AutoModelForSequenceClassification loads, with the lower blocks of the
    language model inside; `--to hub-folder` the same with a model card, ready to upload.

    Example: sparserm export reward-hf --to hf
    """
    settings, out = opt.begin(ctx, ExportConfig)
    if settings.to == "capture":
        from sparserm_cli.store.exchange.capture_files import export_capture

        chain_reports.export(out, export_capture(settings.run, target))
        return
    from sparserm_cli.alignment.hf_export.export import export_hf

    align_reports.export(out, export_hf(settings, note=out.note))


def import_(
    ctx: typer.Context,
    source: Annotated[Path, typer.Argument(help="HDF5 file that `sparserm export` wrote.")],
    force: opt.ForceOption = False,
    run: opt.RunOption = DEFAULT_RUN,
    config: opt.ConfigOption = None,
    json: opt.JsonOption = False,
    quiet: opt.QuietOption = False,
) -> None:
    """Read an exported capture into the run directory.

    Example: sparserm import activations.h5
    """
    settings, out = opt.begin(ctx, StageConfig)
    from sparserm_cli.store.exchange.capture_files import import_capture

    chain_reports.import_(out, settings.run, import_capture(source, settings.run, force=force))
