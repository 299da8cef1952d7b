"""Make a command of typer out of a config: its options, their help and their panels come from the fields."""

import inspect
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Annotated, Any, TypeVar

import typer

from sparserm_cli.cli.parsing import config_from, run_directory
from sparserm_cli.cli.preflight import check_inputs
from sparserm_cli.cli.toml_settings import read_settings, settings_reader
from sparserm_cli.config import DEFAULT_RUN, StageConfig
from sparserm_cli.config.option import OUTPUT, Field, declared_fields
from sparserm_cli.console import Output
from sparserm_cli.locations import parse_location

BodyType = TypeVar("BodyType", bound=Callable[..., None])


@dataclass(frozen=True)
class Command:
    """A command before typer sees it.

    Fields:
        name: name on the command line.
        panel: panel of `sparserm --help` in which it stands.
        config: class whose fields are its options.
        body: what it does with a config and the output.
        callback: function with the signature that typer reads.
    """

    name: str
    panel: str
    config: type[StageConfig]
    body: Callable[..., None]
    callback: Callable[..., None]


COMMANDS: dict[str, Command] = {}
"""All commands by name, in the order in which they were declared."""


def command(config: type[StageConfig], panel: str) -> Callable[[BodyType], BodyType]:
    """Register a function as a command named like it; it takes a config and the output.

    A function with a third parameter `ctx` gets typer's context, in which it finds the other commands.

    Args:
        config: class whose fields are the options.
        panel: panel of `sparserm --help` in which the command stands.

    """

    def register(body: BodyType) -> BodyType:
        name = body.__name__.strip("_").replace("_", "-")
        COMMANDS[name] = Command(name, panel, config, body, typer_function(config, body, check_inputs))
        return body

    return register


def typer_function(
    config: type[StageConfig],
    body: Callable[..., None],
    check: Callable[[StageConfig], None] = lambda _config: None,
) -> Callable[..., None]:
    """Return a function whose signature makes typer parse the options of a config.

    Args:
        config: class whose fields are the options.
        body: called with the config and the output.
        check: called with the config before `body`; it refuses what is not there.

    """

    def run(ctx: typer.Context, **_: Any) -> None:
        path = ctx.params["config"]
        switches = {"as_json": bool(ctx.params["json"]), "quiet": bool(ctx.params["quiet"])}
        out = Output(**switches, carried=_carried(ctx), settings=read_settings(path) if path else {})
        # A result file on stdout must not end with an error object.
        as_json = out.as_json and ctx.params.get("output") != "-"
        ctx.ensure_object(dict).update(json=as_json, carried=_carried(ctx))
        more = {"ctx": ctx} if "ctx" in inspect.signature(body).parameters else {}
        settings = config_from(ctx, config)
        check(settings)
        body(settings, out, **more)

    run.__name__, run.__doc__ = body.__name__, body.__doc__
    parameters = [inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)]
    declared = [field for field in declared_fields(config).values() if field.option is not None]
    # The run directory stands last in its panel, before the switches that every command has.
    declared.sort(key=lambda field: field.name == "run")
    parameters += [_parameter(field) for field in declared]
    parameters += [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, default, annotation in _switches(config)
    ]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _carried(ctx: typer.Context) -> str:
    """Return the run directory and settings file as they were typed, for the next command."""
    words = ""
    for name in ("run", "config"):
        source = ctx.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            words += f" --{name} {shlex.quote(str(ctx.params[name]))}"
    return words


def _switches(config: type[StageConfig]) -> Sequence[tuple[str, Any, Any]]:
    """Return name, default and annotation of the options that every command has."""
    shared: Any = {"rich_help_panel": OUTPUT}
    settings = typer.Option(
        "--config",
        help="Settings file with a table per command.",
        show_default="./sparserm.toml, if there",
        is_eager=True,
        callback=settings_reader(config),
        **shared,
    )
    as_json = typer.Option("--json", help="Print the result, or the error, as one JSON object.", **shared)
    quiet = typer.Option("--quiet", "-q", help="Print no notes and no progress.", **shared)
    return (
        ("config", None, Annotated[Path | None, settings]),
        ("json", False, Annotated[bool, as_json]),
        ("quiet", False, Annotated[bool, quiet]),
    )


def _parameter(field: Field) -> inspect.Parameter:
    """Return the parameter of one field as typer reads it."""
    annotation, default, extra = _typing_of(field)
    option = field.option
    assert option is not None  # noqa: S101 - only fields with an option come here
    words: dict[str, Any] = {
        "help": option.help,
        "rich_help_panel": option.panel,
        "metavar": option.metavar or "|".join(map(str, field.choices)) or None,
        "show_default": option.shown or True,
        **extra,
    }
    offered = option.complete() if option.complete else field.choices
    if offered:
        words["autocompletion"] = _completion(offered)
    names = () if option.argument else (field.flag, *option.aliases)
    made = (typer.Argument if option.argument else typer.Option)(*names, **words)
    if option.required:
        default = inspect.Parameter.empty
    return inspect.Parameter(
        field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[annotation, made]
    )


def _typing_of(field: Field) -> tuple[Any, Any, Mapping[str, Any]]:
    """Return what typer parses a field as: a type, a default, and what else typer is given."""
    if field.name == "run":
        return PurePath, DEFAULT_RUN, {"parser": run_directory, "envvar": "SPARSERM_RUN"}
    if field.several and field.kind is int:
        shown = ",".join(map(str, field.default)) if field.default and field.name != "worker" else None
        return str | None, shown, {}
    if field.several:
        return list[str] | None, list(field.default) or None, {}
    annotation = field.kind | None if field.optional else field.kind
    default = None if field.default == "" and field.kind is str else field.default
    if default is None and not field.optional:
        annotation = field.kind | None
    return annotation, default, {"parser": parse_location} if field.kind is PurePath else {}


def _completion(offered: Sequence[Any]) -> Callable[[str], list[str]]:
    """Return what completes a value in the shell."""
    return lambda incomplete: [str(value) for value in offered if str(value).startswith(incomplete)]
