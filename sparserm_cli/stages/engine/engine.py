"""Who does the work of a stage: this process, or the actors of a Ray cluster; the stage need not know.

A stage says how a worker is made and what a worker does with one task, such as a unit of a store. A worker
loads what it needs, such as weights, once, and lives until the stage is over.

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
        """The store that is filled."""

    @abstractmethod
    def compute(self, unit: int) -> None:
        """Compute and commit one unit."""


class Lost(NamedTuple):
    """What comes of a task that alone failed, or whose worker died."""

    reason: str
    """In one line."""


class Engine(ABC, Generic[Worker]):
    """Does the tasks of a stage.

    Args:
        stop: asked before each task; if requested, those in hand finish and no more are taken.

    Attributes:
        computed: units done by `fill`.
        seconds: time it took for them, loading of weights included.

    """

    def __init__(self, stop: StopRequest) -> None:
        self.stop = stop
        self.computed, self.seconds = 0, 0.0

    @abstractmethod
    def ask(self, question: Callable[[Worker], Result]) -> Result:
        """Return what one worker answers; the question is a method of its class."""

    @abstractmethod
    def spread(
        self, do: Callable[[Worker, Task], Result], tasks: Iterable[Task]
    ) -> Iterator[tuple[Task, Result | Lost]]:
        """Do tasks and yield each with its result as it is done, in any order.

        Args:
            do: what a worker does with a task; an error of it ends everything.
            tasks: taken only as workers are free; none is None.

        """

    def fill(
        self: "Engine[UnitWorker]", store: UnitStore, tokens: int, worker: tuple[int, int] = (0, 1)
    ) -> Manifest | None:
        """Compute the pending units of a store, as `work_units` does.

        Args:
            store: the planned store.
            tokens: of all its units, as the stage counts them.
            worker: this process's rank and how many share the plan.

        Raises:
            PartialError: some units failed three times; the others are done.
            CorruptStoreError: the store was complete but a file is not there as recorded.
            StoppedError: Ctrl-C or SIGTERM; the units done are safe.

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
        """Try units and yield each with what went wrong."""
        for unit, found in self.spread(_attempt, units):
            yield unit, found.reason if isinstance(found, Lost) else found

    def _tell(self, done: int, total: int) -> None:
        """Tell how many tokens are done, unless workers do it themselves."""


def _attempt(worker: UnitWorker, unit: int) -> str | None:
    """Compute and commit a unit; return what went wrong, if it concerns this unit alone."""
    return attempt(worker.store, worker.compute, unit)
