"""The step from parsed options to the config of a command, and how options given as text are read."""

from dataclasses import fields
from typing import Any, TypeVar

import typer

from sparserm_cli.cli.toml_settings import read_settings
from sparserm_cli.config import CONFIGS, EncodeConfig, StageConfig
from sparserm_cli.console import Output
from sparserm_cli.errors import UsageError

ConfigType = TypeVar("ConfigType", bound=StageConfig)


def begin(ctx: typer.Context, kind: type[ConfigType]) -> tuple[ConfigType, Output]:
    """Build the stage's config from the command's options, and the output as its switches say.

    An option is named like the field it fills, so nothing is listed twice.

    Raises:
        UsageError: a value is out of range.

    """
    return config_from(ctx, kind), Output(
        as_json=bool(ctx.params.get("json")), quiet=bool(ctx.params.get("quiet"))
    )


def config_from(ctx: typer.Context, kind: type[ConfigType]) -> ConfigType:
    """Build the stage's config from a parsed command.

    Raises:
        UsageError: a value is out of range.

    """
    names = {item.name for item in fields(kind)}
    values = {name: value for name, value in ctx.params.items() if name in names}
    if "layer" in values:
        values["layer"] = parse_layers(values["layer"])
    if "worker" in values:
        values["worker"] = parse_worker(values["worker"])
    if isinstance(values.get("top_k"), str):
        values["top_k"] = parse_numbers("--top-k", values["top_k"], "a number or several", "8 or 4,8,16")
    for name in values.keys() & {"columns", "sae", "other", "sweep"}:
        values[name] = tuple(values[name] or ())
    return kind(**values)


def stage_config(ctx: typer.Context, name: str) -> StageConfig:
    """Parse a stage's command as if it were called with this run directory and settings file alone.

    Raises:
        UsageError: a value is out of range.

    """
    group: Any = ctx.parent.command if ctx.parent else None
    words = ["--run", str(ctx.params["run"])]
    if ctx.params.get("config"):
        words += ["--config", str(ctx.params["config"])]
    with group.commands[name].make_context(name, words, parent=ctx.parent) as stage:
        return config_from(stage, CONFIGS[name])


def planned_encoding(ctx: typer.Context) -> EncodeConfig | None:
    """Return how the settings file has `encode` called; None if it names no SAE."""
    path = ctx.params.get("config")
    table = read_settings(path).get("encode") if path else None
    if not isinstance(table, dict) or not table.get("sae"):
        return None
    planned = stage_config(ctx, "encode")
    return planned if isinstance(planned, EncodeConfig) else None


def parse_layers(text: str | None) -> tuple[int, ...] | None:
    """Read `"14"` or `"8,14,20"` as layer numbers counted from 0.

    Raises:
        UsageError: a part is no whole number of at least 0, or stands twice.

    """
    return None if text is None else parse_numbers("--layer", text, "a layer or several", "14 or 8,14,20")


def parse_numbers(option: str, text: str, what: str, example: str) -> tuple[int, ...]:
    """Read whole numbers with commas between them; they are sorted.

    Raises:
        UsageError: a part is no whole number of at least 0, or stands twice.

    """
    parts = [part.strip() for part in str(text).split(",")]
    if not all(part.isdecimal() for part in parts) or len(set(parts)) != len(parts):
        raise UsageError(option, f"{what} with commas, like {example}", repr(text), "correct the option")
    return tuple(sorted(int(part) for part in parts))


def parse_worker(text: str | None) -> tuple[int, int]:
    """Read `"RANK/WORLD"`, such as `"0/4"`; nothing given is the one worker `(0, 1)`.

    Raises:
        UsageError: it does not read so, or the rank is not below the world size.

    """
    if text is None:
        return 0, 1
    rank, slash, world = text.partition("/")
    if not slash or not rank.isdecimal() or not world.isdecimal() or int(rank) >= int(world):
        raise UsageError(
            "--worker", "RANK/WORLD with RANK from 0 to WORLD - 1, like 0/4", repr(text), "correct the option"
        )
    return int(rank), int(world)
