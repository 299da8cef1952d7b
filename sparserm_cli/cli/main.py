"""`sparserm`: the table of contents of the command line, and the one place where errors become exit codes."""

import signal
import sys
from importlib import import_module
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

from sparserm_cli import __version__, console
from sparserm_cli.cli.builder import COMMANDS
from sparserm_cli.cli.commands import MODULES
from sparserm_cli.cli.panels import PanelCommand, PanelGroup, context_settings
from sparserm_cli.cli.second_signal import end_at_second_signal
from sparserm_cli.errors import SparseRMError, StoppedError, UsageError

app = typer.Typer(
    name="sparserm",
    help="Turn a frozen language model into a reward model with sparse-autoencoder directions (SparseRM).",
    epilog="Start: sparserm extract pairs.jsonl --model smollm2-135m --layer 14",
    cls=PanelGroup,
    context_settings=context_settings(),
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
ClickError: Any = typer.BadParameter.__mro__[2]
"""Errors of typer for a command line that it cannot parse; some versions contain their own click."""


def _print_version(given: bool) -> None:
    if given:
        sys.stdout.write(__version__ + "\n")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Turn a frozen language model into a reward model with sparse-autoencoder directions (SparseRM)."""


for module in MODULES:
    import_module(f"sparserm_cli.cli.commands.{module}")
for name, declared in COMMANDS.items():
    app.command(name, cls=PanelCommand, context_settings=context_settings(), rich_help_panel=declared.panel)(
        declared.callback
    )


def main() -> NoReturn:
    """Run the command line; every expected error becomes one line on stderr and its exit code."""
    # 1. A first Ctrl-C or SIGTERM raises StoppedError; a second one ends the process.
    end_at_second_signal()
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    # 2. Typer parses the command line and calls the command.
    switches: dict[str, Any] = {"json": "--json" in sys.argv, "carried": ""}
    try:
        code = app(standalone_mode=False, obj=switches)
        sys.exit(code if isinstance(code, int) else 0)
    # 3. Expected errors become one line, or one JSON object, and the exit code of their kind.
    except SparseRMError as problem:
        console.error(problem.carrying(switches["carried"]), as_json=switches["json"])
        sys.exit(problem.exit_code)
    except StoppedError as problem:
        console.error(problem, as_json=switches["json"])
        sys.exit(problem.exit_code)
    except ClickError as problem:
        problem.show()
        if switches["json"]:
            said, command = problem.format_message(), getattr(problem.ctx, "command_path", "sparserm")
            hint = f"run `{command} --help`"
            console.error_object(UsageError("command line", "options of this command", said, hint))
        sys.exit(problem.exit_code)
    except typer.Abort:
        sys.exit(1)


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    """End the command on Ctrl-C or SIGTERM; stages that work in units finish the current unit instead."""
    raise StoppedError(number, signal.Signals(number).name)
