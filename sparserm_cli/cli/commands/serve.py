"""The command that lets others ask for rewards: serve."""

from pathlib import Path
from typing import Annotated

import typer

from sparserm_cli.cli import options as opt
from sparserm_cli.cli.parsing import begin
from sparserm_cli.config import DEFAULT_RUN, ServeConfig


def serve(
    ctx: typer.Context,
    reward: opt.RewardOption = None,
    host: Annotated[str, typer.Option(help="Address; any but loopback needs a key.")] = ServeConfig.host,
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = ServeConfig.port,
    api_key_file: Annotated[
        Path | None, typer.Option(help="File with the bearer key.", show_default="$SPARSERM_API_KEY")
    ] = None,
    normalize: opt.NormalizeOption = False,
    clip: opt.ClipOption = None,
    abstain: opt.AbstainOption = None,
    model: opt.ModelOption = None,
    device: opt.DeviceOption = ServeConfig.device,
    batch_tokens: opt.BatchTokensOption = None,
    max_body: Annotated[int, typer.Option(help="Bytes of a request.")] = ServeConfig.max_body,
    max_inputs: Annotated[int, typer.Option(help="Responses in a request.")] = ServeConfig.max_inputs,
    max_requests: Annotated[int, typer.Option(help="Requests at a time.")] = ServeConfig.max_requests,
    max_waiting: Annotated[int, typer.Option(help="Tokens waiting at a time.")] = ServeConfig.max_waiting,
    max_connections: Annotated[
        int, typer.Option(help="Connections at a time.")
    ] = ServeConfig.max_connections,
    max_client_connections: Annotated[
        int, typer.Option(help="Connections at a time from one address.")
    ] = ServeConfig.max_client_connections,
    prompt_cache: Annotated[
        int, typer.Option(help="MiB for prompts kept for later responses.")
    ] = ServeConfig.prompt_cache,
    header_seconds: Annotated[
        float, typer.Option(help="For the headers of a request to arrive.")
    ] = ServeConfig.header_seconds,
    body_seconds: Annotated[float, typer.Option(help="For a body to arrive.")] = ServeConfig.body_seconds,
    timeout: Annotated[float, typer.Option(help="Seconds for an answer.")] = ServeConfig.timeout,
    drain_seconds: Annotated[
        float, typer.Option(help="For answers in the making after SIGTERM.")
    ] = ServeConfig.drain_seconds,
    offline: opt.OfflineOption = False,
    run: opt.RunOption = DEFAULT_RUN,
    config: opt.ConfigOption = None,
    json: opt.JsonOption = False,
    quiet: opt.QuietOption = False,
) -> None:
    """Answer requests for rewards over HTTP, in the shapes of vLLM and SGLang (and so verl) and OpenRLHF.

    Example: sparserm serve --reward sparserm-run/reward --port 8000
    """
    settings, out = begin(ctx, ServeConfig)
    from sparserm_cli.alignment.server.serve import serve as start

    start(settings, listening=lambda url: out.result({"url": url}, f"listening on {url}"), note=out.note)
