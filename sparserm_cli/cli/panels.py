"""Help texts in panels, as wide as the terminal, without importing rich: `--help` must be instant."""

import shutil
from collections.abc import Mapping
from typing import Any

from typer.core import TyperCommand, TyperGroup

from sparserm_cli.config.option import PANELS

PIPELINE = "Pipeline"
USE = "Use a reward model"
INSPECT = "Inspect"
MAINTAIN = "Maintain"
COMMAND_PANELS = (PIPELINE, USE, INSPECT, MAINTAIN)
"""Panels of `sparserm --help`, in their order."""
WIDEST = 120
"""Columns beyond which a line of help is hard to read."""


def context_settings() -> dict[str, Any]:
    """Return how every command reads its options and lays out its help."""
    return {
        "help_option_names": ["-h", "--help"],
        "max_content_width": min(shutil.get_terminal_size().columns, WIDEST),
    }


class PanelCommand(TyperCommand):
    """A command whose help shows its options in panels."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, then the options by panel."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                panel = "Arguments" if parameter.param_type_name == "argument" else _panel(parameter)
                panels.setdefault(panel, []).append(record)
        _write(formatter, panels, ("Arguments", *PANELS))


class PanelGroup(TyperGroup):
    """The group of all commands, whose help shows them in panels."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options, then the commands by panel, each with its whole first sentence."""
        records = [parameter.get_help_record(ctx) for parameter in self.get_params(ctx)]
        panels: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command: Any = self.get_command(ctx, name)
            first = (command.help or "").strip().split("\n\n")[0].replace("\n", " ")
            panels.setdefault(command.rich_help_panel or MAINTAIN, []).append((name, first))
        _write(formatter, panels, COMMAND_PANELS)
        _write(formatter, {"Options": [record for record in records if record is not None]}, ("Options",))


def _panel(parameter: Any) -> str:
    """Return the panel of an option; the last is that of every command."""
    return getattr(parameter, "rich_help_panel", None) or PANELS[-1]


def _write(formatter: Any, panels: Mapping[str, list[tuple[str, str]]], order: tuple[str, ...]) -> None:
    """Write those panels that have rows."""
    for panel in order:
        if rows := panels.get(panel):
            with formatter.section(panel):
                formatter.write_dl(rows)
