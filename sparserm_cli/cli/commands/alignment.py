"""The commands around the use of a reward: rank, pairs, suggest, doctor."""

from sparserm_cli.cli.builder import command
from sparserm_cli.cli.output import alignment as show
from sparserm_cli.cli.panels import INSPECT, USE
from sparserm_cli.config import DoctorConfig, PairsConfig, RankConfig, SuggestConfig
from sparserm_cli.console import Output


@command(RankConfig, USE)
def rank(settings: RankConfig, out: Output) -> None:
    """Order the responses to each prompt and name the best (best of n).

    A killed run goes on where it was.

    Example: sparserm rank generations.jsonl --output best.jsonl
    """
    from sparserm_cli.alignment.response_choice.rank import rank as stage

    with out.progress("rank", "rows") as progress:
        summary = stage(settings, progress=progress, note=out.note)
    show.rank(out, summary)


@command(PairsConfig, USE)
def pairs(settings: PairsConfig, out: Output) -> None:
    """Make preference pairs for a trainer out of responses, one pair per row.

    From rows with responses it takes the best and the worst by reward. Rows with chosen and rejected keep
    their labels, and those are dropped whose chosen response scores less than the rejected one (the filter of
    the SparseRM paper, s_w >= s_l). NAME.audit.jsonl beside the pairs says what became of every row. A killed
    run goes on where it was, and other limits need no second scoring.

    Example: sparserm pairs generations.jsonl --to trl --margin 0.5 --length-ratio 1.5
    """
    from sparserm_cli.alignment.response_choice.pairs import pairs as stage

    with out.progress("pairs", "rows") as progress:
        summary = stage(settings, progress=progress, note=out.note)
    show.pairs(out, summary)


@command(SuggestConfig, USE)
def suggest(settings: SuggestConfig, out: Output) -> None:
    """Name the unlabelled pairs whose labels would tell the reward model the most.

    The rows need two or more responses per prompt; labels that they have are not looked at. What the training
    pairs have told is taken into account, and prompts that the reward model was fitted on are left out. Each
    line of the output is a pair with an empty `winner`: fill in a, b or tie, add the lines to the training
    data, fit again, and ask again. A killed run goes on where it was.

    Example: sparserm suggest pool.jsonl --count 50 --output next.jsonl
    """
    from sparserm_cli.alignment.response_choice.suggest import suggest as stage

    with out.progress("suggest", "rows") as progress:
        summary = stage(settings, progress=progress, note=out.note)
    show.suggest(out, summary)


@command(DoctorConfig, INSPECT)
def doctor(settings: DoctorConfig, out: Output) -> None:
    """Show what a model is sensitive to, and what to set.

    It measures how far vectors (and scores) drift under batches, padding, BOS tokens, the template and the
    number type.

    Example: sparserm doctor smollm2-135m --layer 14
    """
    from sparserm_cli.alignment.doctor.doctor import doctor as examine

    show.doctor(out, examine(settings, note=out.note))
