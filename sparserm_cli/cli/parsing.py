"""The step from parsed options to the config of a command, and how options given as text are read."""

from pathlib import Path, PurePath
from typing import Any, TypeVar

import typer

from sparserm_cli.config import StageConfig
from sparserm_cli.config.option import Field, declared_fields
from sparserm_cli.errors import UsageError
from sparserm_cli.locations import parse_location

ConfigType = TypeVar("ConfigType", bound=StageConfig)


def run_directory(text: str) -> PurePath:
    """Read `--run`, which is no file.

    Raises:
        UsageError: it is a file.

    """
    folder = parse_location(text)
    if isinstance(folder, Path) and folder.is_file():
        raise UsageError("--run", "a directory", f"{folder}, a file", "correct the option")
    return folder


def config_from(ctx: typer.Context, kind: type[ConfigType]) -> ConfigType:
    """Build the config of a parsed command; an option is named like the field it fills.

    Raises:
        UsageError: a value is out of range.

    """
    values = {}
    for name, field in declared_fields(kind).items():
        value = ctx.params.get(name)
        if name in ctx.params and (value is not None or field.optional):
            values[name] = _value(field, value)
    return kind(**values)


def _value(field: Field, value: Any) -> Any:
    """Return the value of a field, from what typer has parsed."""
    if not field.several or value is None:
        return value
    if field.name == "worker":
        return parse_worker(value)
    if field.name == "layer":
        return parse_layers(value)
    if field.kind is int:
        return parse_numbers(field.flag, value, "a number or several", "8 or 4,8,16")
    return tuple(value)


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
