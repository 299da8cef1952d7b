"""The commands about this machine: env, cache."""

from sparserm_cli.cli.builder import command
from sparserm_cli.cli.output import machine as show
from sparserm_cli.cli.panels import MAINTAIN
from sparserm_cli.config import CacheConfig, EnvConfig
from sparserm_cli.console import Output
from sparserm_cli.locations import cache_folder


@command(EnvConfig, MAINTAIN)
def env(_settings: EnvConfig, out: Output) -> None:
    """Show versions, device, extras and cache, for a bug report.

    Example: sparserm env
    """
    from sparserm_cli.cli.machine import environment

    show.env(out, environment())


@command(CacheConfig, MAINTAIN)
def cache(settings: CacheConfig, out: Output) -> None:
    """List what lies in the cache, with sizes, and remove what was not used for long.

    Example: sparserm cache --prune --older-than 30
    """
    from sparserm_cli.cli.machine import cache_entries, hub_entries, prune_cache

    removed = prune_cache(settings.older_than) if settings.prune else []
    show.cache(out, str(cache_folder()), cache_entries(), hub_entries(), removed)
