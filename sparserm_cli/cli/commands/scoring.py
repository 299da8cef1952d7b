"""The commands that use a fitted reward model, or make another one of it: score, evaluate, edit, adapt."""

from sparserm_cli.cli.builder import command
from sparserm_cli.cli.output import derivation
from sparserm_cli.cli.output import scoring as show
from sparserm_cli.cli.panels import USE
from sparserm_cli.config import AdaptConfig, EditConfig, EvaluateConfig, ScoreConfig
from sparserm_cli.console import Output


@command(ScoreConfig, USE)
def score(settings: ScoreConfig, out: Output) -> None:
    """Score new responses, one JSON object per line, in the order of the file.

    A killed run goes on where it was.

    Example: sparserm score responses.jsonl --output -
    """
    from sparserm_cli.stages.score.score import score as stage

    with out.progress("score", "responses") as progress:
        summary = stage(settings, progress=progress, note=out.note)
    show.score(out, summary)


@command(EvaluateConfig, USE)
def evaluate(settings: EvaluateConfig, out: Output) -> None:
    """Measure accuracy on labelled data, beside its controls.

    Example: sparserm evaluate held-out.jsonl
    """
    from sparserm_cli.analysis.evaluate.evaluate import evaluate as study

    with out.progress("evaluate", "responses") as progress:
        summary = study(settings, progress=progress, note=out.note)
    show.evaluate(out, summary)


@command(EditConfig, USE)
def edit(settings: EditConfig, out: Output) -> None:
    """Make a new reward model in which directions are dropped or scaled, and show what that changes.

    The old one stays as it is. A dropped direction counts as if every response had its training mean.

    Example: sparserm edit --drop 14:1829 --on held-out.jsonl --output reward-edited
    """
    from sparserm_cli.analysis.derivation.edit import edit as study

    with out.progress("edit", "rows") as progress:
        summary = study(settings, progress=progress, note=out.note)
    derivation.edit(out, summary)


@command(AdaptConfig, USE)
def adapt(settings: AdaptConfig, out: Output) -> None:
    """Move the head of a reward model towards a few labelled pairs of another user, domain or rubric.

    The directions stay, and so does the old reward model. Inner folds of the pairs choose how far the head
    moves; where no move helps on them, the old head is kept.

    Example: sparserm adapt pairs.jsonl --output reward-mine
    """
    from sparserm_cli.analysis.derivation.adapt import adapt as study

    with out.progress("adapt", "rows") as progress:
        summary = study(settings, progress=progress, note=out.note)
    derivation.adapt(out, summary)
