"""The commands that look after the run directory as a whole: run, status, verify, repair."""

import typer

from sparserm_cli.cli.builder import command
from sparserm_cli.cli.output import run_directory as show
from sparserm_cli.cli.panels import MAINTAIN, PIPELINE
from sparserm_cli.cli.run_options import stage_configs, write_settings
from sparserm_cli.config import RepairConfig, RunConfig, StatusConfig, VerifyConfig
from sparserm_cli.console import Output


@command(RunConfig, PIPELINE)
def run(settings: RunConfig, out: Output, ctx: typer.Context) -> None:
    """Turn preference pairs into a reward model: all stages in order, each skipped if it is up to date.

    What is given here passes through to the stages; all else is as sparserm.toml says, if there is one.

    Example: sparserm run pairs.jsonl --top-k 64
    """
    configs = stage_configs(ctx, settings)
    if settings.write_config is not None:
        write_settings(configs, settings.write_config)
        show.settings_written(out, settings.write_config)
        return
    from sparserm_cli.stages.run import run_stages

    with out.phases("tokens") as progress:
        stages = run_stages(configs, progress=progress, note=out.note)
    show.run(out, settings.run, stages)


@command(StatusConfig, MAINTAIN)
def status(settings: StatusConfig, out: Output) -> None:
    """Show the chain of artifacts, what is stale, and what to run next.

    Example: sparserm status
    """
    from sparserm_cli.store.run.status import status as read_status

    show.status(out, settings.run, read_status(settings.run, deep=settings.deep))


@command(VerifyConfig, MAINTAIN)
def verify(settings: VerifyConfig, out: Output) -> None:
    """Check that every byte is there that the run directory promises.

    Example: sparserm verify --deep
    """
    from sparserm_cli.store.run.verify import verify as check

    show.verify(out, settings.run, check(settings.run, deep=settings.deep))


@command(RepairConfig, MAINTAIN)
def repair(settings: RepairConfig, out: Output) -> None:
    """Give up damaged units, so that extract and encode compute exactly those again.

    Example: sparserm repair && sparserm run
    """
    from sparserm_cli.store.run.verify import repair as mend

    show.repair(out, settings.run, mend(settings.run))
