"""The commands that use a fitted reward model: score, evaluate."""

from sparserm_cli.cli.builder import command
from sparserm_cli.cli.output import scoring as show
from sparserm_cli.cli.panels import USE
from sparserm_cli.config import EvaluateConfig, ScoreConfig
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
