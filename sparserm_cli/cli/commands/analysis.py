"""The commands that show how well, why and what: compare, explain, report."""

from pathlib import PurePath
from typing import Annotated

import typer

from sparserm_cli.cli import options as opt
from sparserm_cli.cli.output import analysis as show
from sparserm_cli.cli.parsing import begin
from sparserm_cli.config import DEFAULT_RUN, CompareConfig, ExplainConfig, ReportConfig


def compare(
    ctx: typer.Context,
    name: Annotated[
        str | None, typer.Option(help="What tables call the run.", show_default="the directory's name")
    ] = None,
    other: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=RUN", help="Run to test on as well. Repeatable."),
    ] = None,
    sweep: Annotated[
        list[str],
        typer.Option(
            metavar="directions|methods|variants|labels|noise|layers|saes|transfer|choice|lora",
            help="What is tried. Repeatable.",
        ),
    ] = list(CompareConfig.sweep),  # noqa: B006 - typer reads it and leaves it alone
    quick: Annotated[bool, typer.Option("--quick", help="Two points of a sweep and the methods.")] = False,
    layer: Annotated[
        str | None,
        typer.Option(
            metavar="L[,L...]", help="Layers that are used.", show_default="all; layers, choice: all"
        ),
    ] = None,
    top_k: Annotated[
        str, typer.Option(metavar="K[,K...]", help="Directions a side that are tried.")
    ] = ",".join(map(str, CompareConfig.top_k)),
    by: Annotated[str, typer.Option(help="Measure that selects, as for select.")] = CompareConfig.by,
    unit: Annotated[
        str, typer.Option(metavar="token|response", help="What rates are shares of.")
    ] = CompareConfig.unit,
    pool: Annotated[
        str, typer.Option(metavar="mean|last|both", help="Vector projected.")
    ] = CompareConfig.pool,
    head: Annotated[
        str, typer.Option(metavar="linear|mlp", help="Head of SparseRM and its controls.")
    ] = CompareConfig.head,
    loss: Annotated[str, typer.Option(metavar="margin|bt|bce", help="Their loss.")] = CompareConfig.loss,
    folds: Annotated[int, typer.Option(help="Parts of the prompts.")] = CompareConfig.folds,
    train_pairs: Annotated[
        int | None, typer.Option(help="Most pairs learned from in a fold.", show_default="all")
    ] = None,
    seed: opt.SeedOption = CompareConfig.seed,
    run: opt.RunOption = DEFAULT_RUN,
    config: opt.ConfigOption = None,
    json: opt.JsonOption = False,
    quiet: opt.QuietOption = False,
) -> None:
    """Cross-validate SparseRM beside everything it must beat; only the sweep `lora` runs the model.

    Example: sparserm compare --quick --other HH-RLHF=hh-run
    """
    settings, out = begin(ctx, CompareConfig)
    from sparserm_cli.analysis.compare.compare import compare as study

    with out.phases("steps") as progress:
        summary = study(settings, progress=progress, note=out.note)
    show.compare(out, summary)


def explain(
    ctx: typer.Context,
    file: opt.FileArgument = "",
    row: Annotated[int, typer.Option(help="Row of the file, from 1.")] = ExplainConfig.row,
    response: Annotated[
        int, typer.Option(help="Response of the row, from 1; chosen ones come first.")
    ] = ExplainConfig.response,
    prompt: Annotated[str | None, typer.Option(help="A user's words, instead of a file.")] = None,
    response_text: Annotated[str | None, typer.Option(help="The answer to them.")] = None,
    top: Annotated[int, typer.Option(help="Directions shown.")] = ExplainConfig.top,
    reward: opt.RewardOption = None,
    columns: opt.ColumnOption = None,
    model: opt.ModelOption = None,
    device: opt.DeviceOption = ExplainConfig.device,
    split: opt.SplitOption = ExplainConfig.split,
    offline: opt.OfflineOption = False,
    run: opt.RunOption = DEFAULT_RUN,
    config: opt.ConfigOption = None,
    json: opt.JsonOption = False,
    quiet: opt.QuietOption = False,
) -> None:
    """Show what each direction and each token adds to a score.

    Example: sparserm explain held-out.jsonl --row 3 --response 2
    """
    settings, out = begin(ctx, ExplainConfig)
    from sparserm_cli.analysis.explain import explain as study

    show.explain(out, study(settings, note=out.note), settings.top)


def report(
    ctx: typer.Context,
    reward: opt.RewardOption = None,
    evaluation: Annotated[
        PurePath | None,
        typer.Option(
            help="What `sparserm evaluate` wrote.", show_default="RUN/evaluation.json, if there", **opt.PLACE
        ),
    ] = None,
    comparison: Annotated[
        PurePath | None,
        typer.Option(
            help="What `sparserm compare` wrote.", show_default="RUN/comparison.json, if there", **opt.PLACE
        ),
    ] = None,
    output: Annotated[
        PurePath | None, typer.Option(help="The page.", show_default="RUN/report.html", **opt.PLACE)
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Where the model lies here, for its tokenizer.", show_default="as captured"),
    ] = None,
    offline: opt.OfflineOption = False,
    run: opt.RunOption = DEFAULT_RUN,
    config: opt.ConfigOption = None,
    json: opt.JsonOption = False,
    quiet: opt.QuietOption = False,
) -> None:
    """Write one HTML page that shows the run: accuracy, directions with their texts, errors, provenance.

    Example: sparserm report --output report.html
    """
    settings, out = begin(ctx, ReportConfig)
    from sparserm_cli.analysis.report.report import report as study

    with out.phases("units") as progress:
        summary = study(settings, progress=progress, note=out.note)
    show.report(out, summary)
