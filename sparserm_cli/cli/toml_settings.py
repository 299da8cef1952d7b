"""`sparserm.toml`: a table a command; every option may stand in it, and the command line wins."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from sparserm_cli.errors import UsageError

FILE_NAME = "sparserm.toml"

ALWAYS_PATHS = {"run", "file", "reward", "output", "target", "evaluation", "comparison", "api_key_file"}
"""Options that name a place in the file system, whatever they say."""

PERHAPS_PATHS = {"data", "model", "sae", "template"}
"""Options that name a place or something else (a hub id, a release): a place if it exists beside the file."""

NUMBERS = {"layer", "top_k"}
"""Options that the command line takes as numbers with commas."""


def apply_settings(ctx: typer.Context, config: Path | None) -> Path | None:
    """Give the command its defaults from `sparserm.toml` before its other options are read.

    Raises:
        UsageError: the file is absent though named, is no TOML, or has a table or key nobody knows.

    """
    path = config or (Path(FILE_NAME) if Path(FILE_NAME).is_file() else None)
    if path is None or ctx.parent is None:
        return None
    tables = read_settings(path)
    commands = getattr(ctx.parent.command, "commands", {})
    shared = {key: value for key, value in tables.items() if not isinstance(value, dict)}
    for name in tables:
        if name not in commands and name != "run":
            raise UsageError(
                f"{path} [{name}]", "a table named like a command", repr(name), "correct the file"
            )
    table = tables.get(str(ctx.info_name), {})
    table = shared | (table if isinstance(table, dict) else {})
    known = {str(parameter.name): parameter for parameter in ctx.command.params}
    values = {key.replace("-", "_"): value for key, value in table.items()}
    for key in values:
        if key not in known:
            listed = ", ".join(sorted(known.keys() - {"config", "help"}))
            raise UsageError(f"{path} [{ctx.info_name}]", f"one of {listed}", repr(key), "correct the file")
    plain = {key: _plain(key, value, path.parent) for key, value in values.items()}
    ctx.default_map = {
        key: [value] if getattr(known[key], "multiple", False) and not isinstance(value, list) else value
        for key, value in plain.items()
    }
    return path


def read_settings(path: Path) -> Mapping[str, Any]:
    """Read the TOML file.

    Raises:
        UsageError: the file is absent or no TOML.

    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise UsageError(
            "--config", "a readable TOML file", f"{path} ({problem.strerror})", "correct the path"
        ) from problem
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise UsageError(str(path), "TOML", str(problem), "correct the file") from problem


def _plain(key: str, value: Any, folder: Path) -> Any:
    """Turn a TOML value into what the command line would have said; paths are relative to the file."""
    if isinstance(value, list) and key in NUMBERS:
        return ",".join(str(item) for item in value)
    if isinstance(value, list):
        return [_plain(key, item, folder) for item in value]
    if isinstance(value, str) and value != "-" and "://" not in value:
        if key == "other":
            name, _, run = value.partition("=")
            return f"{name}={folder / run}"
        beside = folder / value
        if key in ALWAYS_PATHS or (key in PERHAPS_PATHS and beside.exists()):
            return str(beside)
    return value
