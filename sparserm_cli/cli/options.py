"""Options that several commands share."""

from pathlib import Path, PurePath
from typing import Annotated, Any

import typer

from sparserm_cli.cli.toml_settings import apply_settings
from sparserm_cli.locations import place


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
FileArgument = Annotated[
    str,
    typer.Argument(
        help="Rows like {prompt, response}, {prompt, responses: [..]}, {messages}, or preference pairs."
    ),
]


ModelOption = Annotated[
    str | None, typer.Option(help="Where the model lies here, if it has moved.", show_default="as fitted")
]


DeterministicOption = Annotated[
    bool, typer.Option("--deterministic", help="Each prompt alone: equal to the bit in any company.")
]
