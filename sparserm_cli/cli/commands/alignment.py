"""The commands around the use of a reward: rank, pairs, doctor."""

from pathlib import PurePath
from typing import Annotated

import typer

from sparserm_cli.cli import options as opt
from sparserm_cli.cli.output import alignment as show
from sparserm_cli.cli.parsing import begin
from sparserm_cli.config import DEFAULT_RUN, DoctorConfig, PairsConfig, RankConfig

RankingOption = Annotated[
    str | None, typer.Option(help="Where to write, - for stdout.", show_default="RUN/ranking.jsonl")
]
PairsOption = Annotated[
    str | None, typer.Option(help="Where to write.", show_default="RUN/pairs.jsonl, verl: .parquet")
]


def rank(
    ctx: typer.Context,
    file: opt.FileArgument,
    reward: opt.RewardOption = None,
    output: RankingOption = None,
    on_bad_row: opt.BadRowOption = RankConfig.on_bad_row,
    columns: opt.ColumnOption = None,
    model: opt.ModelOption = None,
    device: opt.DeviceOption = RankConfig.device,
    batch_tokens: opt.BatchTokensOption = None,
    deterministic: opt.DeterministicOption = False,
    limit: opt.LimitOption = None,
    split: opt.SplitOption = RankConfig.split,
    offline: opt.OfflineOption = False,
    run: opt.RunOption = DEFAULT_RUN,
    config: opt.ConfigOption = None,
    json: opt.JsonOption = False,
    quiet: opt.QuietOption = False,
) -> None:
    """Order the responses to each prompt and name the best (best of n).

    A killed run goes on where it was.

    Example: sparserm rank generations.jsonl --output best.jsonl
    """
    settings, out = begin(ctx, RankConfig)
    from sparserm_cli.alignment.response_choice.rank import rank as stage

    with out.progress("rank", "rows") as progress:
        summary = stage(settings, progress=progress, note=out.note)
    show.rank(out, summary)


def pairs(
    ctx: typer.Context,
    file: opt.FileArgument,
    to: Annotated[
        str, typer.Option(metavar="trl|openrlhf|verl", help="Whose format the pairs are written in.")
    ] = PairsConfig.to,
    margin: Annotated[
        float, typer.Option(help="Least score of chosen above rejected.", metavar="SCORE")
    ] = PairsConfig.margin,
    length_ratio: Annotated[
        float | None,
        typer.Option(
            help="Most characters of the longer response for one of the shorter, like 1.2.",
            show_default="lengths are not matched",
        ),
    ] = None,
    abstain: opt.AbstainOption = None,
    reward: opt.RewardOption = None,
    output: PairsOption = None,
    on_bad_row: opt.BadRowOption = PairsConfig.on_bad_row,
    columns: opt.ColumnOption = None,
    model: opt.ModelOption = None,
    device: opt.DeviceOption = PairsConfig.device,
    batch_tokens: opt.BatchTokensOption = None,
    deterministic: opt.DeterministicOption = False,
    limit: opt.LimitOption = None,
    split: opt.SplitOption = PairsConfig.split,
    offline: opt.OfflineOption = False,
    run: opt.RunOption = DEFAULT_RUN,
    config: opt.ConfigOption = None,
    json: opt.JsonOption = False,
    quiet: opt.QuietOption = False,
) -> None:
    """Make preference pairs for a trainer out of responses, one a row.

    From rows with responses it takes the best and the worst by reward. Rows with chosen and rejected keep
    their labels, and those are dropped whose chosen response scores less than the rejected one (the filter of
    the SparseRM paper, s_w >= s_l). What became of every row is told in NAME.audit.jsonl beside the
    pairs. A killed run goes on where it was, and other limits need no second scoring.

    Example: sparserm pairs generations.jsonl --to trl --margin 0.5 --length-ratio 1.5
    """
    settings, out = begin(ctx, PairsConfig)
    from sparserm_cli.alignment.response_choice.pairs import pairs as stage

    with out.progress("pairs", "rows") as progress:
        summary = stage(settings, progress=progress, note=out.note)
    show.pairs(out, summary)


def doctor(
    ctx: typer.Context,
    model: Annotated[
        str, typer.Argument(help="smollm2-135m, a hub id (with @revision), a directory, or a .gguf file.")
    ],
    layer: Annotated[
        str | None, typer.Option(metavar="L[,L...]", help="Blocks, from 0.", show_default="the middle one")
    ] = None,
    reward: Annotated[
        PurePath | None,
        typer.Option(
            help="Reward model of that model: scores are compared too.",
            show_default="vectors only",
            **opt.PLACE,
        ),
    ] = None,
    data: Annotated[
        str, typer.Option(help="Rows to try, of any shape.", show_default="a few conversations")
    ] = DoctorConfig.data,
    columns: opt.ColumnOption = None,
    limit: Annotated[int, typer.Option(help="Most rows tried.")] = DoctorConfig.limit,
    template: Annotated[
        str | None, typer.Option(metavar="FILE", help="Chat template.", show_default="the model's own")
    ] = None,
    device: opt.DeviceOption = DoctorConfig.device,
    offline: opt.OfflineOption = False,
    run: opt.RunOption = DEFAULT_RUN,
    config: opt.ConfigOption = None,
    json: opt.JsonOption = False,
    quiet: opt.QuietOption = False,
) -> None:
    """Show what a model is sensitive to, and what to set.

    How far vectors (and scores) drift under batches, padding, BOS tokens, the template and the type.

    Example: sparserm doctor smollm2-135m --layer 14
    """
    settings, out = begin(ctx, DoctorConfig)
    from sparserm_cli.alignment.doctor.doctor import doctor as examine

    show.doctor(out, examine(settings, note=out.note))
