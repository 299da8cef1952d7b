"""The interface of an engine, which runs the tasks of a stage in this process or in actors of a Ray cluster.

A stage defines how a worker is made and what it does with one task, such as a unit of a store. A worker loads
its weights once, and lives until the end of the stage.

Memory: that of one worker, here or in each actor.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, NamedTuple, TypeVar

from sparserm_cli.stages.engine.signals import StopRequest
from sparserm_cli.store.units.records import Manifest
from sparserm_cli.store.units.unit_store import UnitStore
from sparserm_cli.store.units.work_loop import attempt, work_attempts

Worker = TypeVar("Worker", covariant=True)


Task = TypeVar("Task")


Result = TypeVar("Result")


class UnitWorker(ABC):
    """A worker that fills a store unit by unit."""

    @property
    @abstractmethod
    def store(self) -> UnitStore:
        """The store that the worker fills."""

    @abstractmethod
    def compute(self, unit: int) -> None:
        """Compute and commit one unit."""


class Lost(NamedTuple):
    """The result of a task that failed by itself, or whose worker died."""

    reason: str
    """Reason of the failure, in one line."""


class Engine(ABC, Generic[Worker]):
    """Runs the tasks of a stage.

    Args:
        stop: checked before each task; after a request to stop, running tasks finish and no more start.

    Attributes:
        computed: number of units computed by `fill`.
        seconds: time spent on these units in seconds, including the loading of weights.

    """

    def __init__(self, stop: StopRequest) -> None:
        self.stop = stop
        self.computed, self.seconds = 0, 0.0

    @abstractmethod
    def ask(self, question: Callable[[Worker], Result]) -> Result:
        """Return what one worker returns for a call; `question` is a method of the worker's class."""

    @abstractmethod
    def spread(
        self, do: Callable[[Worker, Task], Result], tasks: Iterable[Task]
    ) -> Iterator[tuple[Task, Result | Lost]]:
        """Run tasks and yield each with its result when it is done, in any order.

        Args:
            do: runs one task in a worker; an error that it raises stops all tasks.
            tasks: tasks, none of them None; each is taken only when a worker is free.

        """

    def fill(
        self: "Engine[UnitWorker]", store: UnitStore, tokens: int, worker: tuple[int, int] = (0, 1)
    ) -> Manifest | None:
        """Compute the pending units of a store; return its manifest once all units are done.

        Args:
            store: the planned store.
            tokens: number of tokens of all units, as the stage counts them.
            worker: rank of this process, and the number of processes that share the plan.

        Raises:
            PartialError: some units failed three times; the others are done.
            CorruptStoreError: the store was complete, but a file is not as recorded.
            StoppedError: Ctrl-C or SIGTERM arrived; the units done are safe.

        """
        begun = time.monotonic()

        def tell(done: int, total: int) -> None:
            self.computed, self.seconds = done, time.monotonic() - begun
            self._tell(tokens * (store.plan.units - total + done) // store.plan.units, tokens)

        rank, world = worker
        manifest = work_attempts(store, self._attempts, rank=rank, world=world, progress=tell)
        if manifest is None:
            self.stop.check(f"{store.done()} of {store.plan.units} units are safe")
        return manifest

    def _attempts(self: "Engine[UnitWorker]", units: Sequence[int]) -> Iterator[tuple[int, str | None]]:
        """Try units and yield each with the reason of its failure, or None."""
        for unit, outcome in self.spread(_attempt, units):
            yield unit, outcome.reason if isinstance(outcome, Lost) else outcome

    def _tell(self, done: int, total: int) -> None:
        """Report how many tokens are done, unless the workers report it themselves."""


def _attempt(worker: UnitWorker, unit: int) -> str | None:
    """Compute and commit a unit; return the reason of a failure that concerns only this unit."""
    return attempt(worker.store, worker.compute, unit)
