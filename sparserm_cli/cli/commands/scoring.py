"""The commands that use a fitted reward model: score, evaluate."""

from typing import Annotated

import typer

from sparserm_cli.cli import options as opt
from sparserm_cli.cli.output import scoring as show
from sparserm_cli.cli.parsing import begin
from sparserm_cli.config import DEFAULT_RUN, EvaluateConfig, ScoreConfig

OutputOption = Annotated[
    str | None, typer.Option(help="Where to write, - for stdout.", show_default="RUN/scores.jsonl")
]


def score(
    ctx: typer.Context,
    file: opt.FileArgument,
    reward: opt.RewardOption = None,
    output: OutputOption = None,
    on_bad_row: opt.BadRowOption = ScoreConfig.on_bad_row,
    columns: opt.ColumnOption = None,
    model: opt.ModelOption = None,
    device: opt.DeviceOption = ScoreConfig.device,
    batch_tokens: opt.BatchTokensOption = None,
    deterministic: opt.DeterministicOption = False,
    normalize: opt.NormalizeOption = False,
    clip: opt.ClipOption = None,
    abstain: opt.AbstainOption = None,
    tokens: Annotated[
        bool, typer.Option("--tokens", help="Also a reward a token; they add up to the score.")
    ] = False,
    engine: opt.EngineOption = ScoreConfig.engine,
    ray_address: opt.RayAddressOption = None,
    actor_cpus: opt.ActorCpusOption = ScoreConfig.actor_cpus,
    actor_gpus: opt.ActorGpusOption = ScoreConfig.actor_gpus,
    limit: opt.LimitOption = None,
    split: opt.SplitOption = ScoreConfig.split,
    offline: opt.OfflineOption = False,
    run: opt.RunOption = DEFAULT_RUN,
    config: opt.ConfigOption = None,
    json: opt.JsonOption = False,
    quiet: opt.QuietOption = False,
) -> None:
    """Score new responses, one JSON object a line, in the file's order.

    A killed run goes on where it was.

    Example: sparserm score responses.jsonl --output -
    """
    settings, out = begin(ctx, ScoreConfig)
    from sparserm_cli.stages.score.score import score as stage

    with out.progress("score", "responses") as progress:
        summary = stage(settings, progress=progress, note=out.note)
    show.score(out, summary)


def evaluate(
    ctx: typer.Context,
    file: opt.FileArgument,
    benchmark: Annotated[
        str, typer.Option(metavar="pairs|rm-bench|reward-bench-2", help="Whose rules count.")
    ] = EvaluateConfig.benchmark,
    reward: opt.RewardOption = None,
    output: Annotated[
        str | None,
        typer.Option(help="Also write the metrics to this JSON file.", show_default="RUN/evaluation.json"),
    ] = None,
    allow_overlap: Annotated[
        bool, typer.Option("--allow-overlap", help="Evaluate although prompts were trained on.")
    ] = False,
    on_bad_row: opt.BadRowOption = EvaluateConfig.on_bad_row,
    columns: opt.ColumnOption = None,
    model: opt.ModelOption = None,
    device: opt.DeviceOption = EvaluateConfig.device,
    batch_tokens: opt.BatchTokensOption = None,
    deterministic: opt.DeterministicOption = False,
    limit: opt.LimitOption = None,
    split: opt.SplitOption = EvaluateConfig.split,
    offline: opt.OfflineOption = False,
    run: opt.RunOption = DEFAULT_RUN,
    config: opt.ConfigOption = None,
    json: opt.JsonOption = False,
    quiet: opt.QuietOption = False,
) -> None:
    """Measure accuracy on labelled data, beside its controls.

    Example: sparserm evaluate held-out.jsonl
    """
    settings, out = begin(ctx, EvaluateConfig)
    from sparserm_cli.analysis.evaluate.evaluate import evaluate as study

    with out.progress("evaluate", "responses") as progress:
        summary = study(settings, progress=progress, note=out.note)
    show.evaluate(out, summary)
