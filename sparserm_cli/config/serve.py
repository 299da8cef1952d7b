"""Config of `serve`: where it listens, who may ask, and how much at a time."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from sparserm_cli.config import shared
from sparserm_cli.config.base import StageConfig
from sparserm_cli.config.option import ABOVE_0, ADDRESS, FINITE, LIMITS, METHOD, NOT_NEGATIVE, PORT, Option
from sparserm_cli.config.scoring import ScoreLimits

KEY_VARIABLE = "SPARSERM_API_KEY"  # the name, not a key


@dataclass(frozen=True)
class ServeConfig(StageConfig, ScoreLimits):
    """`serve`: rewards over HTTP."""

    reward: shared.Reward = None
    group: shared.Group = None
    host: Annotated[str, Option("Address to listen on; any but a loopback address needs a key.", ADDRESS)] = (
        "127.0.0.1"
    )
    port: Annotated[int, Option("Port to listen on; 0 takes a free one.", ADDRESS, check=PORT)] = 8000
    api_key_file: Annotated[
        Path | None,
        Option("File that holds the bearer key.", ADDRESS, shown=f"${KEY_VARIABLE}", path="always"),
    ] = None
    model: shared.MovedModel = None
    device: shared.Device = "auto"
    batch_tokens: shared.BatchTokens = None
    part_groups: shared.PartGroups = shared.PART_GROUPS
    strict: Annotated[
        bool,
        Option(
            "Refuse a request that holds a response which cannot be scored, instead of scoring the others.",
            METHOD,
        ),
    ] = False
    unscorable: Annotated[
        float | None,
        Option(
            "Score of a response that gets none; without it the answer is null, which trainers that need "
            "numbers do not take.",
            METHOD,
            check=FINITE,
            shown="null",
        ),
    ] = None
    max_body: Annotated[int, Option("Largest request body, in bytes.", LIMITS, check=ABOVE_0)] = 2 << 20
    max_inputs: Annotated[
        int, Option("Largest number of responses in one request.", LIMITS, check=ABOVE_0)
    ] = 256
    max_requests: Annotated[
        int,
        Option(
            "Largest number of requests that are worked on or wait at a time; further ones get 503.",
            LIMITS,
            check=ABOVE_0,
        ),
    ] = 256
    max_waiting: Annotated[
        int,
        Option(
            "Largest number of tokens that wait for the model at a time; further requests get 503.",
            LIMITS,
            check=ABOVE_0,
        ),
    ] = 65536
    max_connections: Annotated[
        int,
        Option(
            "Largest number of connections at a time; for one more, the one that has waited longest to send "
            "a request is ended.",
            LIMITS,
            check=ABOVE_0,
        ),
    ] = 640
    max_client_connections: Annotated[
        int,
        Option("Largest number of connections at a time from one address.", LIMITS, check=ABOVE_0),
    ] = 512
    prompt_cache: Annotated[
        int,
        Option(
            "Memory for prompts that are kept for later responses, in MiB; 0 keeps none.",
            LIMITS,
            check=NOT_NEGATIVE,
        ),
    ] = 256
    header_seconds: Annotated[
        float, Option("Seconds allowed for the headers of a request to arrive.", LIMITS, check=ABOVE_0)
    ] = 10.0
    body_seconds: Annotated[
        float, Option("Seconds allowed for a request body to arrive.", LIMITS, check=ABOVE_0)
    ] = 10.0
    timeout: Annotated[
        float, Option("Seconds allowed for a request to be answered.", LIMITS, check=ABOVE_0)
    ] = 120.0
    drain_seconds: Annotated[
        float, Option("Seconds to finish open requests after SIGTERM.", LIMITS, check=ABOVE_0)
    ] = 30.0
    offline: shared.Offline = False
