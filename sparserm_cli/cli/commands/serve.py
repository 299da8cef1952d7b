"""The command that answers requests for rewards: serve."""

from sparserm_cli.cli.builder import command
from sparserm_cli.cli.panels import USE
from sparserm_cli.config import ServeConfig
from sparserm_cli.console import Output


@command(ServeConfig, USE)
def serve(settings: ServeConfig, out: Output) -> None:
    """Answer requests for rewards over HTTP, in the shapes of vLLM, SGLang (so of verl), OpenRLHF and TEI.

    Example: sparserm serve --reward sparserm-run/reward --port 8000
    """
    from sparserm_cli.alignment.server.serve import serve as start

    start(settings, listening=lambda url: out.result({"url": url}, f"listening on {url}"), note=out.note)
