"""The command that shows what a file of rows becomes: data."""

from sparserm_cli.cli.builder import command
from sparserm_cli.cli.output import data as show
from sparserm_cli.cli.panels import INSPECT
from sparserm_cli.config.data import DataConfig
from sparserm_cli.console import Output


@command(DataConfig, INSPECT)
def data(settings: DataConfig, out: Output) -> None:
    """Show what a file of rows becomes before anything is computed, and write it as preference rows.

    Example: sparserm data pairs.jsonl --column prompt=question
    """
    from sparserm_cli.analysis.data_summary import summarise_data

    show.data(out, summarise_data(settings), settings.output)
