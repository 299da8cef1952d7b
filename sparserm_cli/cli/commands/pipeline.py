"""The commands of the pipeline: extract, encode, frequency, select, fit."""

from typing import Annotated

import typer

from sparserm_cli.cli import options as opt
from sparserm_cli.cli.commands import extract_options
from sparserm_cli.cli.output import pipeline as show
from sparserm_cli.cli.parsing import begin, planned_encoding
from sparserm_cli.config import (
    DEFAULT_RUN,
    EncodeConfig,
    ExtractConfig,
    FitConfig,
    FrequencyConfig,
    HeadSetting,
    SelectConfig,
)


def extract(
    ctx: typer.Context,
    data: extract_options.DataArgument,
    model: extract_options.ModelOption = ExtractConfig.model,
    layer: extract_options.LayerOption = None,
    sae: extract_options.SAEOption = None,
    positions: extract_options.PositionsOption = ExtractConfig.positions,
    dtype: extract_options.DtypeOption = ExtractConfig.dtype,
    device: opt.DeviceOption = ExtractConfig.device,
    batch_tokens: opt.BatchTokensOption = ExtractConfig.batch_tokens,
    max_length: extract_options.MaxLengthOption = None,
    too_long: extract_options.TooLongOption = ExtractConfig.too_long,
    template: opt.TemplateOption = None,
    columns: opt.ColumnOption = None,
    split: opt.SplitOption = ExtractConfig.split,
    limit: opt.LimitOption = None,
    on_bad_row: opt.BadRowOption = ExtractConfig.on_bad_row,
    on_nonfinite: extract_options.NonfiniteOption = ExtractConfig.on_nonfinite,
    dedupe: Annotated[bool, typer.Option("--dedupe", help="Keep the first of equal pairs only.")] = False,
    unit_tokens: extract_options.UnitTokensOption = ExtractConfig.unit_tokens,
    worker: opt.WorkerOption = None,
    engine: opt.EngineOption = ExtractConfig.engine,
    ray_address: opt.RayAddressOption = None,
    actor_cpus: opt.ActorCpusOption = ExtractConfig.actor_cpus,
    actor_gpus: opt.ActorGpusOption = ExtractConfig.actor_gpus,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Stop after the plan and its price.")] = False,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="With --dry-run: measure the rate for 20 seconds.")
    ] = False,
    tokens_per_second: Annotated[
        float | None, typer.Option(help="With --dry-run: rate of one device.", show_default="measured here")
    ] = None,
    gpu: Annotated[
        str | None, typer.Option(help="With --dry-run: name of the device.", show_default="this machine's")
    ] = None,
    gpus: Annotated[
        int, typer.Option(help="With --dry-run: devices that share the work.")
    ] = ExtractConfig.gpus,
    price_per_hour: Annotated[
        float | None, typer.Option(help="With --dry-run: price of one device an hour.", show_default="none")
    ] = None,
    force: opt.ForceOption = False,
    offline: opt.OfflineOption = False,
    remote_code: Annotated[
        bool, typer.Option("--remote-code", help="Let the model run code of its own.")
    ] = False,
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Read .bin weights or an SAE's .pt (weights_only).")
    ] = False,
    allow_mismatch: opt.MismatchOption = False,
    run: opt.RunOption = DEFAULT_RUN,
    config: opt.ConfigOption = None,
    json: opt.JsonOption = False,
    quiet: opt.QuietOption = False,
) -> None:
    """Capture residual activations of preference pairs.

    Example: sparserm extract pairs.jsonl --model smollm2-135m --layer 14
    """
    settings, out = begin(ctx, ExtractConfig)
    from sparserm_cli.stages.extract.extract import extract as stage

    with out.progress("extract", "tokens") as progress:
        summary = stage(settings, progress=progress, note=out.note, later=planned_encoding(ctx))
    show.extract(out, summary)


def encode(
    ctx: typer.Context,
    sae: Annotated[
        list[str], typer.Option(help="SAE directory, or SAELens release/id. Repeatable, one a layer.")
    ],
    chunk_rows: Annotated[
        int, typer.Option(help="Tokens that go through the SAE at a time.")
    ] = EncodeConfig.chunk_rows,
    device: opt.DeviceOption = EncodeConfig.device,
    allow_mismatch: opt.MismatchOption = False,
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Read .pt weights (weights_only).")
    ] = False,
    worker: opt.WorkerOption = None,
    engine: opt.EngineOption = EncodeConfig.engine,
    ray_address: opt.RayAddressOption = None,
    actor_cpus: opt.ActorCpusOption = EncodeConfig.actor_cpus,
    actor_gpus: opt.ActorGpusOption = EncodeConfig.actor_gpus,
    force: opt.ForceOption = False,
    run: opt.RunOption = DEFAULT_RUN,
    config: opt.ConfigOption = None,
    json: opt.JsonOption = False,
    quiet: opt.QuietOption = False,
) -> None:
    """Encode captured tokens through the SAE.

    Example: sparserm encode --sae examples/sae/smollm2-135m
    """
    settings, out = begin(ctx, EncodeConfig)
    from sparserm_cli.stages.encode.encode import encode as stage

    with out.progress("encode", "tokens") as progress:
        summary = stage(settings, progress=progress, note=out.note)
    show.encode(out, summary)


def frequency(
    ctx: typer.Context,
    unit: Annotated[
        str, typer.Option(metavar="token|response", help="Rates over response tokens, or over responses.")
    ] = FrequencyConfig.unit,
    val_fraction: opt.ValFractionOption = FrequencyConfig.val_fraction,
    seed: opt.SeedOption = FrequencyConfig.seed,
    run: opt.RunOption = DEFAULT_RUN,
    config: opt.ConfigOption = None,
    json: opt.JsonOption = False,
    quiet: opt.QuietOption = False,
) -> None:
    """Count how often each latent fires, chosen against rejected.

    Example: sparserm frequency --unit token
    """
    settings, out = begin(ctx, FrequencyConfig)
    from sparserm_cli.stages.frequency.frequency import frequency as stage

    with out.progress("frequency", "tokens") as progress:
        summary = stage(settings, progress=progress, note=out.note)
    show.frequency(out, summary)


def select(
    ctx: typer.Context,
    top_k: Annotated[int, typer.Option("--top-k", help="Directions a side.")] = SelectConfig.top_k,
    by: Annotated[
        str, typer.Option(help="Measure that ranks the latents; a wrong one lists them all.")
    ] = SelectConfig.by,
    seed: opt.SeedOption = SelectConfig.seed,
    run: opt.RunOption = DEFAULT_RUN,
    config: opt.ConfigOption = None,
    json: opt.JsonOption = False,
    quiet: opt.QuietOption = False,
) -> None:
    """Select preference directions.

    Example: sparserm select --top-k 64
    """
    settings, out = begin(ctx, SelectConfig)
    from sparserm_cli.stages.select.select import select as stage

    show.select(out, stage(settings, note=out.note))


def fit(
    ctx: typer.Context,
    choose: Annotated[
        bool,
        typer.Option(
            "--choose",
            help="Choose pool, head and loss by folds of the training prompts; layers stay as selected.",
        ),
    ] = False,
    pool: Annotated[
        str | None,
        typer.Option(
            metavar="mean|last|both", help="Pooled vector that is projected.", show_default=HeadSetting.pool
        ),
    ] = None,
    head: Annotated[
        str | None,
        typer.Option(metavar="linear|mlp", help="Kind of head.", show_default=HeadSetting.head),
    ] = None,
    loss: Annotated[
        str | None,
        typer.Option(
            metavar="margin|bt|bce",
            help="Margin, Bradley-Terry or cross-entropy.",
            show_default=HeadSetting.loss,
        ),
    ] = None,
    val_fraction: opt.ValFractionOption = FitConfig.val_fraction,
    seed: opt.SeedOption = FitConfig.seed,
    run: opt.RunOption = DEFAULT_RUN,
    config: opt.ConfigOption = None,
    json: opt.JsonOption = False,
    quiet: opt.QuietOption = False,
) -> None:
    """Fit the reward head on the projections.

    Example: sparserm fit --pool mean --head mlp --loss margin
    """
    settings, out = begin(ctx, FitConfig)
    from sparserm_cli.stages.fit.fit import fit as stage

    with out.progress("fit", "steps") as progress:
        summary = stage(settings, progress=progress, note=out.note)
    show.fit(out, summary)
