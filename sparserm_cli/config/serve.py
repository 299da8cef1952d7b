"""Config of `serve`: where it listens, who may ask, and how much at a time."""

from dataclasses import dataclass
from pathlib import Path, PurePath

from sparserm_cli.config.base import StageConfig
from sparserm_cli.config.scoring import Guards
from sparserm_cli.errors import UsageError

KEY_VARIABLE = "SPARSERM_API_KEY"  # the name, not a key


@dataclass(frozen=True)
class ServeConfig(StageConfig, Guards):
    """`serve`: rewards over HTTP."""

    reward: PurePath | None = None
    """Fitted reward model; None is the run directory's own."""
    host: str = "127.0.0.1"
    """Address to listen on; any but a loopback address needs a key."""
    port: int = 8000
    """Port to listen on; 0 takes a free one."""
    api_key_file: Path | None = None
    """File that holds the bearer key; None takes the environment's `SPARSERM_API_KEY`, if it is set."""
    model: str | None = None
    """Where the model lies on this machine, if not where the reward model says; it must be the same model."""
    device: str = "auto"
    """Torch device; auto is cuda where there is one, else cpu; balanced or a JSON file shares the model's
    blocks among several."""
    batch_tokens: int | None = None
    """Tokens in one forward pass; None chooses by the machine."""
    max_body: int = 2 << 20
    """Largest body of a request, in bytes."""
    max_inputs: int = 256
    """Most responses in one request."""
    max_requests: int = 256
    """Requests worked on or waiting at a time; more get 503."""
    max_waiting: int = 65536
    """Tokens waiting for the model at a time; more get 503."""
    max_connections: int = 640
    """Connections at a time; for one more, the one that has waited longest to send a request is ended."""
    max_client_connections: int = 512
    """Connections at a time from one address."""
    prompt_cache: int = 256
    """What prompts kept for later responses may take, in MiB; 0 keeps none."""
    header_seconds: float = 10.0
    """Longest time the headers of a request may take to arrive, in seconds."""
    body_seconds: float = 10.0
    """Longest time a body may take to arrive, in seconds."""
    timeout: float = 120.0
    """Longest time an answer may take, in seconds; `max_waiting` should be less work than that."""
    drain_seconds: float = 30.0
    """Longest time that SIGTERM waits for answers in the making, in seconds."""
    offline: bool = False
    """Never call the hub."""

    def __post_init__(self) -> None:
        """Check what both parents have, and that every limit is one."""
        StageConfig.__post_init__(self)
        Guards.__post_init__(self)
        if not 0 <= self.port < 65536:
            raise UsageError("--port", "a number from 0 to 65535", str(self.port), "correct the option")
        if self.prompt_cache < 0:
            found = str(self.prompt_cache)
            raise UsageError("--prompt-cache", "a number of MiB, 0 for none", found, "correct the option")
        limits = ("max_body", "max_inputs", "max_requests", "max_waiting", "max_connections")
        times = ("header_seconds", "body_seconds", "timeout", "drain_seconds")
        for name in (*limits, "max_client_connections", *times):
            if not getattr(self, name) > 0:
                option, found = "--" + name.replace("_", "-"), str(getattr(self, name))
                raise UsageError(option, "a number above 0", found, "correct the option")
