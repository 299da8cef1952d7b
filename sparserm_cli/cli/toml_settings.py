"""`sparserm.toml`: a table per command; every option may stand in it, and the command line wins."""

import tomllib
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import typer

from sparserm_cli.config.option import Field, declared_fields
from sparserm_cli.errors import UsageError
from sparserm_cli.files import refuse_pipes

FILE_NAME = "sparserm.toml"


def settings_reader(config: Any) -> Callable[[typer.Context, Path | None], Path | None]:
    """Return what gives a command its defaults from `sparserm.toml` before its other options are read.

    Args:
        config: class whose fields are the options of the command.

    """

    def apply_settings(ctx: typer.Context, named: Path | None) -> Path | None:
        path = named or (Path(FILE_NAME) if Path(FILE_NAME).is_file() else None)
        if path is None or ctx.parent is None:
            return None
        commands = getattr(ctx.parent.command, "commands", {})
        ctx.default_map = command_defaults(path, str(ctx.info_name), declared_fields(config), commands)
        return path

    return apply_settings


def command_defaults(
    path: Path, command: str, known: Mapping[str, Field], commands: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the values that the settings file has for a command, by parameter.

    Args:
        path: the settings file.
        command: name of the command.
        known: fields of its config.
        commands: all commands by name.

    Raises:
        UsageError: the file is absent though named, is no TOML, or has a table or key that is unknown.

    """
    tables = read_settings(path)
    for name, value in tables.items():
        if isinstance(value, dict) and name not in commands:
            expected = "a table named like a command"
            raise UsageError(f"{path} [{name}]", expected, repr(name), _near(name, list(commands)))
    table = tables.get(command, {})
    names = {spelling: field.name for field in known.values() for spelling in _spellings(field)}
    names |= {"json": "json", "quiet": "quiet"}
    shared = {key: value for key, value in tables.items() if not isinstance(value, dict)}
    own = table if isinstance(table, dict) else {}
    values: dict[str, Any] = {}
    for key, value in (shared | own).items():
        parameter = names.get(key.replace("-", "_"))
        if parameter is None:
            listed = ", ".join(sorted(names.keys() - {"json", "quiet"}))
            where = f"{path} [{command}]"
            raise UsageError(where, f"one of {listed}", repr(key), _near(key, list(names)))
        field = known.get(parameter)
        values[parameter] = value if field is None else _typed(field, value, path.parent)
    return values


def read_settings(path: Path) -> Mapping[str, Any]:
    """Read the TOML file.

    Raises:
        UsageError: the file is absent or no TOML.

    """
    refuse_pipes([path], UsageError)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise UsageError(
            "--config", "a readable TOML file", f"{path} ({problem.strerror})", "correct the path"
        ) from problem
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise UsageError(str(path), "TOML", str(problem), "correct the file") from problem


def _spellings(field: Field) -> list[str]:
    """Return the names under which an option may stand in the file, with underscores; [] for no option."""
    if field.option is None:
        return []
    flags = (field.flag, *field.option.aliases)
    return [field.name, *(flag.removeprefix("--").replace("-", "_") for flag in flags)]


def _near(name: str, known: list[str]) -> str:
    """Return what to do about an unknown name: the near one, where there is one."""
    near = get_close_matches(name.replace("-", "_"), known, n=1) or get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else "correct the file"


def _typed(field: Field, value: Any, folder: Path) -> Any:
    """Turn a TOML value into what the command line would have said; paths are relative to the file."""
    if field.several and field.kind is int:
        return ",".join(map(str, value)) if isinstance(value, list) else value
    if field.several:
        return [_beside(field, item, folder) for item in (value if isinstance(value, list) else [value])]
    return _beside(field, value, folder)


def _beside(field: Field, value: Any, folder: Path) -> Any:
    """Return a path as seen from here, where the value names one beside the settings file."""
    if field.option is None or not isinstance(value, str) or value == "-" or "://" in value:
        return value
    if field.name == "other":
        name, _, run = value.partition("=")
        return f"{name}={folder / run}"
    beside = folder / value
    if field.option.path == "always" or (field.option.path == "perhaps" and beside.exists()):
        return str(beside)
    return value
