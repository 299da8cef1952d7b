"""Options that several commands share, and the step from parsed options to a stage's config."""

from dataclasses import fields
from pathlib import Path, PurePath
from typing import Annotated, Any, TypeVar

import typer

from sparserm_cli.cli.settings import apply_settings
from sparserm_cli.config import StageConfig, parse_layers, parse_numbers, parse_worker
from sparserm_cli.console import Output
from sparserm_cli.locations import place

ConfigType = TypeVar("ConfigType", bound=StageConfig)


def _run(text: str) -> PurePath:
    """Read `--run`, which is no file."""
    found = place(text)
    if isinstance(found, Path) and found.is_file():
        raise typer.BadParameter(f"Directory '{found}' is a file.")
    return found


PLACE: dict[str, Any] = {"metavar": "PATH|URL", "parser": place}
"""What an option is told that takes a place, not only of this machine."""

RunOption = Annotated[
    PurePath,
    typer.Option(
        "--run",
        envvar="SPARSERM_RUN",
        help="Run directory that holds the artifacts of all stages, or s3://BUCKET/PREFIX.",
        metavar="DIRECTORY|URL",
        parser=_run,
    ),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="Settings file with a table a command.",
        show_default="./sparserm.toml, if there",
        is_eager=True,
        callback=apply_settings,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No notes and no progress.")]

DeviceOption = Annotated[
    str,
    typer.Option(
        "--device",
        help="Torch device: auto, cpu, cuda, cuda:1, mps. A model larger than one: balanced (all GPUs, then "
        "memory and disk) or a JSON file of module to device.",
    ),
]
BatchTokensOption = Annotated[
    int | None,
    typer.Option("--batch-tokens", help="Tokens in one forward pass.", show_default="by the machine"),
]
ColumnOption = Annotated[
    list[str] | None,
    typer.Option(
        "--column", metavar="OURS=THEIRS", help="Map a column of the data, like prompt=question. Repeatable."
    ),
]
BadRowOption = Annotated[
    str,
    typer.Option(
        "--on-bad-row",
        metavar="error|reject",
        help="Stop at a bad row, or write it to rejects.jsonl and go on.",
    ),
]
SplitOption = Annotated[str, typer.Option("--split", help="Split of a Hugging Face data set.")]
LimitOption = Annotated[int | None, typer.Option("--limit", help="Most rows read.", show_default="all")]
WorkerOption = Annotated[
    str | None,
    typer.Option(
        "--worker",
        metavar="RANK/WORLD",
        help="Do only this worker's share of the units, like 0/4.",
        show_default="all units",
    ),
]
EngineOption = Annotated[
    str, typer.Option("--engine", metavar="serial|ray", help="Work here, or by the actors of a Ray cluster.")
]
RayAddressOption = Annotated[
    str | None,
    typer.Option("--ray-address", help="Address of a running Ray cluster.", show_default="a local one"),
]
ActorCpusOption = Annotated[int, typer.Option("--actor-cpus", help="CPUs and threads of each Ray actor.")]
ActorGpusOption = Annotated[
    int, typer.Option("--actor-gpus", help="GPUs of each Ray actor, where the cluster has any.")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Throw away what other settings made.")]
TemplateOption = Annotated[
    str | None,
    typer.Option("--template", metavar="raw|FILE", help="Chat template.", show_default="the model's own"),
]
MismatchOption = Annotated[
    bool, typer.Option("--allow-mismatch", help="Use an SAE made for another model, hook or scale.")
]
OfflineOption = Annotated[bool, typer.Option("--offline", help="Never call the hub.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of everything random.")]
ValFractionOption = Annotated[
    float, typer.Option("--val-fraction", help="Share of prompts that form the validation split.")
]
RewardOption = Annotated[
    PurePath | None,
    typer.Option("--reward", help="Fitted reward model.", show_default="RUN/reward", **PLACE),
]
NormalizeOption = Annotated[
    bool,
    typer.Option("--normalize", help="Scores in standard deviations from the training responses' mean."),
]
ClipOption = Annotated[
    float | None, typer.Option("--clip", help="Largest score, and smallest negated.", show_default="none")
]
AbstainOption = Annotated[
    float | None,
    typer.Option(
        "--abstain",
        help="Null for responses of a larger ood; 99 % of training responses are below 1.",
        show_default="score all",
    ),
]


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
