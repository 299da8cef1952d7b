"""`--engine ray`: the pending units of a plan, tried by the actors of a Ray cluster.

Ray schedules, and nothing more: an actor computes and commits a unit as a serial run does, and what goes
through Ray is the unit's number and whether it worked. The driver holds the run directory's locks. An actor
that dies costs its unit a try; after three the unit is given up and the others go on.

Memory: that of a serial run, for each actor.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sparserm_cli.config import ExtractConfig
from sparserm_cli.errors import ResourceError, UsageError
from sparserm_cli.stages.planning import Request
from sparserm_cli.stages.units import UnitComputer
from sparserm_cli.store.activations import ActivationsWriter
from sparserm_cli.store.work import Attempts, attempt

OBJECT_STORE_BYTES = 100 * 2**20
"""Of a local cluster: nothing but unit numbers goes through it."""


class UnitActor:
    """Computes units in a process of its own; the model is loaded once, for the first.

    Args:
        request: what is captured.
        root: the planned capture, on a disk that all actors share.
        run_id: of the driver, for receipts.

    """

    def __init__(self, request: Request, root: Path, run_id: str) -> None:
        self._writer = ActivationsWriter(root, run_id)
        self._computer = UnitComputer(request, self._writer, lambda _done, _total: None, lambda _text: None)

    def attempt(self, unit: int) -> str | None:
        """Compute and commit a unit; return what went wrong, if it concerns this unit alone."""
        return attempt(self._writer.store, self._computer.compute, unit)


def ray_attempts(request: Request, writer: ActivationsWriter, stop: Callable[[], bool]) -> Attempts:
    """Return what tries units on Ray: as many at a time as the cluster has GPUs, or else CPUs.

    Args:
        request: what is captured.
        writer: the planned capture.
        stop: asked before each unit; true lets the units in hand finish and takes no more.

    Raises:
        UsageError: Ray is not installed.

    """
    try:
        import ray
    except ImportError:
        hint = "pip install 'sparserm[ray]'"
        raise UsageError("--engine ray", "the package ray", "none", hint) from None
    arguments = (request, writer.root.absolute(), writer.store.run_id)

    def attempts(units: Sequence[int]) -> Iterator[tuple[int, str | None]]:
        with _cluster(request.config):
            resources = ray.cluster_resources()
            kind = "GPU" if resources.get("GPU") and request.config.device != "cpu" else "CPU"
            count = min(int(resources.get(kind, 1)), len(units))
            actor_class = ray.remote(num_cpus=1, num_gpus=int(kind == "GPU"), max_restarts=0)(UnitActor)
            yield from _spread(units, lambda: actor_class.remote(*arguments), count, stop)

    return attempts


def _spread(
    units: Sequence[int], start: Callable[[], Any], count: int, stop: Callable[[], bool]
) -> Iterator[tuple[int, str | None]]:
    """Keep `count` actors busy, each with one unit; an actor that dies is replaced."""
    import ray

    idle, waiting = [start() for _ in range(count)], deque(units)
    running: dict[Any, tuple[int, Any]] = {}
    while running or (waiting and not stop()):
        while waiting and idle and not stop():
            unit, actor = waiting.popleft(), idle.pop()
            running[actor.attempt.remote(unit)] = unit, actor
        for done in ray.wait(list(running), num_returns=1)[0]:
            unit, actor = running.pop(done)
            try:
                error = ray.get(done)
            except ray.exceptions.RayActorError as death:
                actor, error = start(), f"its worker died ({' '.join(str(death).split())[:200]})"
            idle.append(actor)
            yield unit, error


@contextmanager
def _cluster(config: ExtractConfig) -> Iterator[None]:
    """Join the cluster at `--ray-address`, or start one on this machine.

    Raises:
        ResourceError: there is no cluster at that address.

    """
    import ray

    local = {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
    given = {"address": config.ray_address} if config.ray_address else {"address": "local", **local}
    try:
        ray.init(**given, log_to_driver=False, configure_logging=False, ignore_reinit_error=True)
    except ConnectionError as problem:
        found = " ".join(str(problem).split())[:200]
        raise ResourceError("--ray-address", "a Ray cluster", found, "start one, or leave it out") from None
    try:
        yield
    finally:
        ray.shutdown()
