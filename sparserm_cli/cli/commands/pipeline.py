"""The commands of the pipeline: extract, encode, frequency, select, fit."""

import typer

from sparserm_cli.cli.builder import command
from sparserm_cli.cli.output import pipeline as show
from sparserm_cli.cli.panels import PIPELINE
from sparserm_cli.cli.run_options import planned_encoding
from sparserm_cli.config import EncodeConfig, ExtractConfig, FitConfig, FrequencyConfig, SelectConfig
from sparserm_cli.console import Output


@command(ExtractConfig, PIPELINE)
def extract(settings: ExtractConfig, out: Output, ctx: typer.Context) -> None:
    """Capture residual activations of preference pairs.

    Example: sparserm extract pairs.jsonl --model smollm2-135m --layer 14
    """
    from sparserm_cli.stages.extract.extract import extract as stage

    with out.progress("extract", "tokens") as progress:
        summary = stage(settings, progress=progress, note=out.note, later=planned_encoding(ctx))
    show.extract(out, summary)


@command(EncodeConfig, PIPELINE)
def encode(settings: EncodeConfig, out: Output) -> None:
    """Encode captured tokens through the SAE.

    Example: sparserm encode --sae examples/sae/smollm2-135m
    """
    from sparserm_cli.stages.encode.encode import encode as stage

    with out.progress("encode", "tokens") as progress:
        summary = stage(settings, progress=progress, note=out.note)
    show.encode(out, summary)


@command(FrequencyConfig, PIPELINE)
def frequency(settings: FrequencyConfig, out: Output) -> None:
    """Count how often each latent fires on chosen and on rejected responses.

    Example: sparserm frequency --unit token
    """
    from sparserm_cli.stages.frequency.frequency import frequency as stage

    with out.progress("frequency", "tokens") as progress:
        summary = stage(settings, progress=progress, note=out.note)
    show.frequency(out, summary)


@command(SelectConfig, PIPELINE)
def select(settings: SelectConfig, out: Output) -> None:
    """Select preference directions.

    Example: sparserm select --top-k 64
    """
    from sparserm_cli.stages.select.select import select as stage

    show.select(out, stage(settings, note=out.note))


@command(FitConfig, PIPELINE)
def fit(settings: FitConfig, out: Output) -> None:
    """Fit the reward head on the projections.

    Example: sparserm fit --pool mean --head mlp --loss margin
    """
    from sparserm_cli.stages.fit.fit import fit as stage

    with out.progress("fit", "steps") as progress:
        summary = stage(settings, progress=progress, note=out.note)
    show.fit(out, summary)
