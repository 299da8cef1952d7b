"""The options of `run`: how they, the settings file and the defaults make the configs of all stages."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from sparserm_cli.cli.parsing import config_from
from sparserm_cli.cli.toml_settings import FILE_NAME, command_defaults, read_settings
from sparserm_cli.config import (
    CONFIGS,
    DEFAULT_MODEL,
    DEFAULT_SAE,
    STAGES,
    EncodeConfig,
    RunConfig,
    StageConfig,
)
from sparserm_cli.config.option import declared_fields, default_of
from sparserm_cli.errors import UsageError


def stage_configs(ctx: typer.Context, settings: RunConfig) -> dict[str, StageConfig]:
    """Return the config of every stage: as `run` was told, else as the settings file says, else the default.

    Raises:
        UsageError: there are no data or no SAE, or a value is out of range.

    """
    given = {name: getattr(settings, name) for name in declared_fields(RunConfig)}
    given = {name: value for name, value in given.items() if value not in (None, (), False)}
    given.pop("write_config", None)
    group: Any = ctx.parent.command if ctx.parent else None
    tables = {name: _table(ctx, name, group.commands) for name in STAGES}
    given["sae"] = _sae(given, tables)
    if "data" not in given and "data" not in tables["extract"]:
        expected = f"preference pairs, or the key data under [extract] in {FILE_NAME}"
        raise UsageError("sparserm run", expected, "neither", "run `sparserm run pairs.jsonl`")
    return {name: _stage_config(ctx, name, _words(name, given, tables[name])) for name in STAGES}


def planned_encoding(ctx: typer.Context) -> EncodeConfig | None:
    """Return how the settings file of `extract` has `encode` called; None if it names no SAE.

    Raises:
        UsageError: a value is out of range.

    """
    path = ctx.params.get("config")
    table = read_settings(path).get("encode") if path else None
    if not isinstance(table, dict) or not table.get("sae"):
        return None
    planned = _stage_config(ctx, "encode", ["--run", str(ctx.params["run"])])
    return planned if isinstance(planned, EncodeConfig) else None


def _stage_config(ctx: typer.Context, name: str, words: list[str]) -> StageConfig:
    """Parse a stage's command line with the settings file of the command at work."""
    group: Any = ctx.parent.command if ctx.parent else None
    if ctx.params.get("config"):
        words = [*words, "--config", str(ctx.params["config"])]
    with group.commands[name].make_context(name, words, parent=ctx.parent) as stage:
        return config_from(stage, CONFIGS[name])


def _table(ctx: typer.Context, name: str, commands: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what the settings file says about a stage; nothing where there is no such file."""
    path = Path(ctx.params.get("config") or FILE_NAME)
    return command_defaults(path, name, declared_fields(CONFIGS[name]), commands) if path.is_file() else {}


def _sae(given: Mapping[str, Any], tables: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the SAEs that encode; the default model has one that is known by name.

    Raises:
        UsageError: there are none.

    """
    if named := given.get("sae") or tables["encode"].get("sae") or tables["extract"].get("sae"):
        return tuple(named)
    model = given.get("model") or tables["extract"].get("model") or DEFAULT_MODEL
    if model == DEFAULT_MODEL:
        return (DEFAULT_SAE,)
    hint = f"give --sae, or train one: sparserm train-sae TEXT --model {model} --layer L --output sae"
    raise UsageError("--sae", f"an SAE for {model}", "none", hint)


def _words(name: str, given: Mapping[str, Any], table: Mapping[str, Any]) -> list[str]:
    """Return the command line of one stage."""
    words = ["--run", str(given["run"])]
    if name == "extract" and "sae" not in table:
        given = _without_repeated_layer(given, table)
    for field in declared_fields(CONFIGS[name]).values():
        if field.name not in given or field.name == "run" or field.option is None:
            continue
        value = given[field.name]
        if field.option.argument:
            words.append(str(value))
        elif field.kind is bool:
            words.append(field.flag)
        elif field.several and field.kind is int:
            words += [field.flag, ",".join(map(str, value))]
        else:
            for item in value if field.several else (value,):
                words += [field.flag, str(item)]
    return words


def _without_repeated_layer(given: Mapping[str, Any], table: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of extract: an SAE gives it the layer, unless that is given; tokens are kept."""
    changed = dict(given)
    if "layer" in given or "layer" in table:
        del changed["sae"]
    elif "positions" not in table:
        changed["positions"] = "response"
    return changed


def write_settings(configs: Mapping[str, StageConfig], path: Path) -> None:
    """Write a settings file with what differs from the defaults; its paths are relative to its folder.

    Raises:
        UsageError: the file is there already, or cannot be written.

    """
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(settings_text(configs, path))
    except FileExistsError as problem:
        hint = "name another file, or remove it"
        raise UsageError("--write-config", "a file that is not there yet", str(path), hint) from problem
    except OSError as problem:
        found = f"{path} ({problem.strerror})"
        raise UsageError("--write-config", "a writable file", found, "correct the path") from problem


def settings_text(configs: Mapping[str, StageConfig], path: Path) -> str:
    """Return the text of a settings file that will lie at `path`."""
    lines = ["# Settings of `sparserm run`: a table per command; a typed option wins over this file."]
    lines.append(f"run = {_toml(_relative(str(configs['extract'].run), path))}")
    for name, config in configs.items():
        entries = []
        for field in declared_fields(type(config)).values():
            value = getattr(config, field.name)
            if field.option is None or field.name == "run" or value == default_of(field, type(config)):
                continue
            if field.option.path and isinstance(value, str):
                value = _relative(value, path)
            elif field.option.path and field.several:
                value = [_relative(item, path) for item in value]
            entries.append(f"{field.name.replace('_', '-')} = {_toml(value)}")
        lines += ["", f"[{name}]", *entries] if entries else []
    return "\n".join(lines) + "\n"


def _relative(text: str, path: Path) -> str:
    """Return a path as seen from the folder of the settings file; what is no path stays as it is."""
    if "://" in text or not (Path(text).exists() or Path(text).is_absolute()):
        return text
    return os.path.relpath(text, path.absolute().parent)


def _toml(value: Any) -> str:
    """Write a value as TOML, whose strings, numbers and lists are those of JSON."""
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
