"""The commands that show how well, why and what: compare, explain, report."""

from sparserm_cli.cli.builder import command
from sparserm_cli.cli.output import analysis as show
from sparserm_cli.cli.panels import INSPECT
from sparserm_cli.config import CompareConfig, ExplainConfig, ReportConfig
from sparserm_cli.console import Output


@command(CompareConfig, INSPECT)
def compare(settings: CompareConfig, out: Output) -> None:
    """Cross-validate SparseRM beside everything it must beat; only the sweep lora runs the model.

    Example: sparserm compare --quick --other HH-RLHF=hh-run
    """
    from sparserm_cli.analysis.compare.compare import compare as study

    with out.phases("steps") as progress:
        summary = study(settings, progress=progress, note=out.note)
    show.compare(out, summary)


@command(ExplainConfig, INSPECT)
def explain(settings: ExplainConfig, out: Output) -> None:
    """Show what each direction and each token adds to a score.

    Example: sparserm explain held-out.jsonl --row 3 --response 2
    """
    from sparserm_cli.analysis.explain import explain as study

    show.explain(out, study(settings, note=out.note), settings.top)


@command(ReportConfig, INSPECT)
def report(settings: ReportConfig, out: Output) -> None:
    """Write one HTML page that shows the run: accuracy, directions with their texts, errors, provenance.

    Example: sparserm report --output report.html
    """
    from sparserm_cli.analysis.report.report import report as study

    with out.phases("units") as progress:
        summary = study(settings, progress=progress, note=out.note)
    show.report(out, summary)
