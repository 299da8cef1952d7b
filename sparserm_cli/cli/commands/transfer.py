"""The commands that bring artifacts out of and into the run directory: export, import."""

from pathlib import Path
from typing import Annotated

import typer

from sparserm_cli.cli import options as opt
from sparserm_cli.cli.output import transfer as show
from sparserm_cli.cli.parsing import begin
from sparserm_cli.config import DEFAULT_RUN, ExportConfig, StageConfig


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
    model: opt.ModelOption = None,
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
    settings, out = begin(ctx, ExportConfig)
    if settings.to == "capture":
        from sparserm_cli.store.exchange.capture_files import export_capture

        show.export_capture(out, export_capture(settings.run, target))
        return
    from sparserm_cli.alignment.hf_export.export import export_hf

    show.export_model(out, export_hf(settings, note=out.note))


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
    settings, out = begin(ctx, StageConfig)
    from sparserm_cli.store.exchange.capture_files import import_capture

    show.import_capture(out, settings.run, import_capture(source, settings.run, force=force))
