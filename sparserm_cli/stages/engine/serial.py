"""The engine that runs tasks in this process."""

from collections.abc import Callable, Iterable, Iterator

from sparserm_cli.stages.engine.engine import Engine, Lost, Result, Task, Worker
from sparserm_cli.stages.engine.signals import StopRequest


class SerialEngine(Engine[Worker]):
    """Runs one task after the other in this process."""

    def __init__(self, worker: Worker, stop: StopRequest) -> None:
        super().__init__(stop)
        self._worker = worker

    def ask(self, question: Callable[[Worker], Result]) -> Result:
        """Call the only worker."""
        return question(self._worker)

    def spread(
        self, do: Callable[[Worker, Task], Result], tasks: Iterable[Task]
    ) -> Iterator[tuple[Task, Result | Lost]]:
        """Yield results in the order of the tasks."""
        for task in tasks:
            if self.stop.requested:
                return
            yield task, do(self._worker, task)
