"""`--engine ray`: run the tasks of a stage in the actors of a Ray cluster.

Ray only schedules: an actor computes and commits a unit as a serial run does, and only the unit's number and
its outcome go through Ray. The driver holds the locks of the run directory. An actor that dies costs its unit
one try; after three tries the unit is given up and the others continue.

Ray Data is not used: it would put blocks into the object store, retry by rules of its own, and not report
which unit an actor died of, which the records of failures need.

Memory: that of a serial run, for each actor.
"""

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from operator import length_hint
from pathlib import Path
from typing import Any, Self, TypeVar

import ray

from sparserm_cli.config import EngineConfig, Note, Progress
from sparserm_cli.errors import ResourceError, SparseRMError, StoppedError
from sparserm_cli.stages.engine.engine import Engine, Lost, Worker
from sparserm_cli.stages.engine.signals import StopRequest

OBJECT_STORE_BYTES = 100 * 2**20
"""Size of a local cluster's object store, through which only tasks and their outcomes go."""

LOCAL = "local"
"""Ray's address of a new cluster on this machine alone."""

STARTS = 3
"""Number of actors in a row that may die before they are ready."""

POLL_SECONDS = 1.0
"""Longest time in seconds until a stop is noticed while no actor is ready yet."""

Task = TypeVar("Task")
Result = TypeVar("Result")


class Actor:
    """A process of the cluster that holds one worker."""

    def prepare(self, make: Callable[..., object], folder: Path) -> None:
        """Make the worker in the driver's working folder, so that relative paths mean the same."""
        with suppress(OSError):  # a run in an object store needs no such folder here
            os.chdir(folder)
        self._worker = make(progress=lambda _done, _total: None, note=lambda _text: None)

    def call(self, do: Callable[..., Result], *task: Any) -> Result:
        """Call a function with the worker."""
        return do(self._worker, *task)


class Death(Lost):
    """The result of a task whose actor died."""


class RayEngine(Engine[Worker]):
    """Runs tasks in actors, each with `--actor-gpus` GPUs or `--actor-cpus` CPUs; the first task starts them.

    Args:
        config: the options.
        make: makes an actor's worker; it must be picklable.
        stop: checked before each task; after a request to stop, running tasks finish and no more start.
        progress: called with work done and work in all.
        note: called with the number of actors.

    """

    def __init__(
        self,
        config: EngineConfig,
        make: Callable[..., Worker],
        stop: StopRequest,
        *,
        progress: Progress,
        note: Note,
    ) -> None:
        super().__init__(stop)
        self._config, self._make = config, make
        self._progress, self._note = progress, note
        self._closing = ExitStack()
        self._slots = self._deaths = 0
        self._starting: dict[Any, Any] = {}
        self._idle: list[Any] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def ask(self, question: Callable[[Worker], Result]) -> Result:
        """Call the worker of the first actor that is ready.

        Raises:
            ResourceError: the actor dies, or none starts.

        """
        self._start(1)
        while not self._idle:
            self._next(())
        outcome = _outcome(self._idle[0].call.remote(question))
        if isinstance(outcome, Death):
            raise _no_actor(outcome)
        return outcome

    def spread(
        self, do: Callable[[Worker, Task], Result], tasks: Iterable[Task]
    ) -> Iterator[tuple[Task, Result | Lost]]:
        """Keep every actor busy with one task; an actor that dies is replaced.

        Raises:
            ResourceError: no actor starts.

        """
        self._start(length_hint(tasks, sys.maxsize))
        remaining = iter(tasks)
        task = next(remaining, None)
        running: dict[Any, tuple[Any, Task]] = {}
        while running or (task is not None and not self.stop.requested):
            while self._idle and task is not None and not self.stop.requested:
                actor = self._idle.pop()
                running[actor.call.remote(do, task)] = actor, task
                task = next(remaining, None)
            if (done := self._next(running)) is None:
                continue
            actor, finished = running.pop(done)
            outcome = _outcome(done)
            if isinstance(outcome, Death):
                self._add_actor()
            else:
                self._idle.append(actor)
            yield finished, outcome

    def _start(self, tasks: int) -> None:
        """Ensure there are enough actors for `tasks`, up to the cluster's capacity."""
        if not self._slots:
            self._closing.enter_context(_cluster(self._config))
            resources = ray.cluster_resources()
            on_gpus = bool(resources.get("GPU")) and self._config.device != "cpu"
            kind, size = ("GPU", self._config.actor_gpus) if on_gpus else ("CPU", self._config.actor_cpus)
            self._slots = max(1, int(resources.get(kind, 0)) // size)
            self._actor_class = ray.remote(
                num_cpus=self._config.actor_cpus,
                num_gpus=size if on_gpus else 0,
                max_restarts=0,
                max_task_retries=0,
            )(Actor)
            self._note(f"Ray: at most {self._slots} actors, {size} {kind} each")
        while len(self._idle) + len(self._starting) < min(self._slots, tasks):
            self._add_actor()

    def _add_actor(self) -> None:
        """Start an actor without waiting for it."""
        actor = self._actor_class.remote()
        self._starting[actor.prepare.remote(self._make, Path.cwd())] = actor

    def _next(self, running: Iterable[Any]) -> Any | None:
        """Wait for one of the running calls; None if an actor became ready, or nothing happened in time."""
        done, _ = ray.wait([*self._starting, *running], num_returns=1, timeout=POLL_SECONDS)
        if not done or done[0] not in self._starting:
            return done[0] if done else None
        actor, outcome = self._starting.pop(done[0]), _outcome(done[0])
        if not isinstance(outcome, Death):
            self._deaths = 0
            self._idle.append(actor)
            return None
        self._deaths += 1
        if self._deaths == STARTS:
            raise _no_actor(outcome)
        self._add_actor()
        return None

    def _tell(self, done: int, total: int) -> None:
        """Report how many tokens are done, since actors do not."""
        self._progress(done, total)


def _outcome(done: Any) -> Any:
    """Return the result of a call, or Death if the actor died; raise what the call raised."""
    try:
        return ray.get(done)
    except ray.exceptions.RayTaskError as problem:
        if isinstance(problem.cause, SparseRMError):
            raise problem.cause from None
        raise
    except ray.exceptions.RayError as problem:
        return Death(f"its worker died ({_one_line(problem)})")


def _no_actor(death: Death) -> ResourceError:
    hint = "see the cluster's logs and memory"
    return ResourceError("--engine ray", "an actor that starts", death.reason, hint)


def _one_line(problem: BaseException) -> str:
    """Return the first 200 characters of Ray's message in one line."""
    return " ".join(str(problem).split())[:200]


@contextmanager
def _cluster(config: EngineConfig) -> Iterator[None]:
    """Join the cluster at `--ray-address`, or start one on this machine.

    Raises:
        ResourceError: there is no cluster at that address.
        StoppedError: SIGTERM arrived meanwhile.

    """
    address = config.ray_address or LOCAL
    local = {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
    given = {"address": address, **(local if address == LOCAL else {})}
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        with _own_sigterm_handler():
            ray.init(**given, log_to_driver=False, configure_logging=False, ignore_reinit_error=True)
    except ConnectionError as problem:
        hint = "start one, leave the option out, or set RAY_AUTH_MODE=token if it wants a token"
        raise ResourceError("--ray-address", "a Ray cluster", _one_line(problem), hint) from None
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _own_sigterm_handler() -> Iterator[None]:
    """Keep our handler of SIGTERM, which ray.init replaces by one that exits at once."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit:
        raise StoppedError(signal.SIGTERM, "Ray was still starting") from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)
