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
    """Give the engine that the options ask for; its workers are gone at the end.

    Ctrl-C and SIGTERM let the tasks in hand finish; a second one aborts them.

    Args:
        config: the options.
        make: makes a worker, told `progress` and `note`, in this process or in actors, where nobody listens.
        progress: called with work done and work in all.
        note: told what is worth knowing on the way.

    """
    with finish_unit_in_hand(note) as stop:
        if config.engine == "serial":
            yield SerialEngine(make(progress=progress, note=note), stop)
            return
        from sparserm_cli.stages.engine.ray_engine import RayEngine

        with RayEngine(config, make, stop, progress=progress, note=note) as engine:
            yield engine
