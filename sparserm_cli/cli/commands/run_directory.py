"""The commands that look after the run directory as a whole: run, status, verify, repair."""

from typing import Annotated

import typer

from sparserm_cli.cli import options as opt
from sparserm_cli.cli.output import run_directory as show
from sparserm_cli.cli.parsing import begin, stage_config
from sparserm_cli.config import DEFAULT_RUN, STAGES, StageConfig


def run(
    ctx: typer.Context,
    run: opt.RunOption = DEFAULT_RUN,
    config: opt.ConfigOption = None,
    json: opt.JsonOption = False,
    quiet: opt.QuietOption = False,
) -> None:
    """Bring all stages up to date, as sparserm.toml says.

    Example: sparserm run --config sparserm.toml
    """
    settings, out = begin(ctx, StageConfig)
    configs = {name: stage_config(ctx, name) for name in STAGES}
    from sparserm_cli.stages.run import run_stages

    with out.phases("tokens") as progress:
        summaries = run_stages(configs, progress=progress, note=out.note)
    show.run(out, settings.run, summaries)


def status(
    ctx: typer.Context,
    deep: Annotated[bool, typer.Option("--deep", help="Read input files, however large they are.")] = False,
    run: opt.RunOption = DEFAULT_RUN,
    config: opt.ConfigOption = None,
    json: opt.JsonOption = False,
    quiet: opt.QuietOption = False,
) -> None:
    """Show the chain of artifacts, what is stale, and what to run next.

    Example: sparserm status
    """
    settings, out = begin(ctx, StageConfig)
    from sparserm_cli.store.run.status import status as look

    show.status(out, settings.run, look(settings.run, deep=deep))


def verify(
    ctx: typer.Context,
    deep: Annotated[bool, typer.Option("--deep", help="Read and hash every byte, not only sizes.")] = False,
    run: opt.RunOption = DEFAULT_RUN,
    config: opt.ConfigOption = None,
    json: opt.JsonOption = False,
    quiet: opt.QuietOption = False,
) -> None:
    """Check that every byte the run directory promises is there.

    Example: sparserm verify --deep
    """
    settings, out = begin(ctx, StageConfig)
    from sparserm_cli.store.run.verify import verify as check

    show.verify(out, settings.run, check(settings.run, deep=deep))


def repair(
    ctx: typer.Context,
    run: opt.RunOption = DEFAULT_RUN,
    config: opt.ConfigOption = None,
    json: opt.JsonOption = False,
    quiet: opt.QuietOption = False,
) -> None:
    """Give up damaged units, so that extract and encode redo exactly those.

    Example: sparserm repair && sparserm run
    """
    settings, out = begin(ctx, StageConfig)
    from sparserm_cli.store.run.verify import repair as mend

    show.repair(out, settings.run, mend(settings.run))
