"""The commands that show how well, why and what: compare, describe, explain, report."""

from sparserm_cli.cli.builder import command
from sparserm_cli.cli.output import analysis as show
from sparserm_cli.cli.panels import INSPECT
from sparserm_cli.config import CompareConfig, DescribeConfig, ExplainConfig, ReportConfig
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


@command(DescribeConfig, INSPECT)
def describe(settings: DescribeConfig, out: Output) -> None:
    """Say what each selected direction stands for, and test the names that directions get.

    A name is shown only if it tells held-out contexts in which the latent fires from others.

    Example: sparserm describe --top 10
    """
    from sparserm_cli.analysis.describe.describe import describe as study

    with out.phases("units") as progress:
        summary = study(settings, progress=progress, note=out.note)
    show.describe(out, summary, settings.top)


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
