"""Open the engine that a config names."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sparserm_cli.config import EngineConfig, Note, Progress
from sparserm_cli.stages.engine.engine import Engine, Worker
from sparserm_cli.stages.engine.serial import SerialEngine
from sparserm_cli.stages.engine.signals import finish_unit_in_hand


@contextmanager
def open_engine(
    config: EngineConfig, make: Callable[..., Worker], *, progress: Progress, note: Note
) -> Iterator[Engine[Worker]]:
    """Yield the engine that the options name; its workers end with the block.

    Ctrl-C and SIGTERM let the running tasks finish; a second signal aborts them.

    Args:
        config: the options.
        make: makes a worker from `progress` and `note`; in actors both are functions that do nothing.
        progress: called with work done and work in all.
        note: called with each message for the user.

    """
    with finish_unit_in_hand(note) as stop:
        if config.engine == "serial":
            yield SerialEngine(make(progress=progress, note=note), stop)
            return
        from sparserm_cli.stages.engine.ray_engine import RayEngine

        with RayEngine(config, make, stop, progress=progress, note=note) as engine:
            yield engine
