"""`sparserm`: the table of contents of the command line, and the one place where errors become exit codes."""

import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Annotated, NoReturn

import typer

from sparserm_cli import __version__, console
from sparserm_cli.cli.commands import (
    alignment,
    analysis,
    pipeline,
    run_directory,
    sae,
    scoring,
    serve,
    transfer,
)
from sparserm_cli.errors import SparseRMError, StoppedError

app = typer.Typer(
    name="sparserm",
    help="Turn a frozen language model into a reward model with sparse-autoencoder directions (SparseRM).",
    epilog="Start: sparserm extract pairs.jsonl --model smollm2-135m --layer 14",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _version(asked: bool) -> None:
    if asked:
        sys.stdout.write(__version__ + "\n")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Turn a frozen language model into a reward model with sparse-autoencoder directions (SparseRM)."""


COMMANDS: tuple[Callable[..., None], ...] = (
    pipeline.extract,
    pipeline.encode,
    pipeline.frequency,
    pipeline.select,
    pipeline.fit,
    scoring.score,
    scoring.evaluate,
    run_directory.run,
    run_directory.status,
    run_directory.verify,
    run_directory.repair,
    sae.train_sae,
    transfer.export,
    transfer.import_,
    analysis.compare,
    analysis.explain,
    analysis.report,
    serve.serve,
    alignment.rank,
    alignment.pairs,
    alignment.doctor,
)
for command in COMMANDS:
    app.command(command.__name__.strip("_").replace("_", "-"))(command)


def main() -> NoReturn:
    """Run the command line; every expected error becomes one line on stderr and its exit code."""
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    try:
        app()
    except SparseRMError as problem:
        console.error(str(problem))
        sys.exit(problem.exit_code)
    except StoppedError as stop:
        console.error(str(stop))
        sys.exit(stop.exit_code)
    sys.exit(0)


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    """Leave at once on Ctrl-C and SIGTERM; the stages that work in units finish the one in hand instead."""
    raise StoppedError(number, signal.Signals(number).name)
