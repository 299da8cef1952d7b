"""The loop that fills a unit store, the same for serial, parallel, cluster and resumed runs."""

from collections.abc import Callable, Iterator, Sequence

from sparserm_cli.errors import PartialError
from sparserm_cli.store.units.integrity import open_complete
from sparserm_cli.store.units.records import Manifest
from sparserm_cli.store.units.unit_store import UnitStore

UNIT_ERRORS = (PartialError, RuntimeError, MemoryError)
"""Errors that concern one unit only: a bad row, or torch's out-of-memory, which is a RuntimeError."""

Attempts = Callable[[Sequence[int]], Iterator[tuple[int, str | None]]]
"""Tries units in any order and yields each with its error or None; ending early means to stop."""


def work_units(
    store: UnitStore,
    compute: Callable[[int], object],
    *,
    rank: int = 0,
    world: int = 1,
    progress: Callable[[int, int], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Manifest | None:
    """Compute the pending units of this rank in turn, then write the manifest if no unit is pending.

    Args:
        store: the planned store.
        compute: computes and commits one unit. After PartialError, RuntimeError or MemoryError the unit is
            tried again, three times at most; any other error ends the run, and finished units are kept.
        rank: number of this worker, from 0.
        world: number of workers that share the plan.
        progress: called with the number of finished units and of all units of this rank.
        stop: called before each unit; true ends the loop after the current unit.

    Returns:
        the manifest of the complete store; None after a stop, or if other ranks have pending units.

    Raises:
        PartialError: some units failed three times; the others are done.
        CorruptStoreError: the store was complete, but a file is absent or has changed.

    """

    def one_by_one(units: Sequence[int]) -> Iterator[tuple[int, str | None]]:
        for unit in units:
            if stop is not None and stop():
                return
            yield unit, attempt(store, compute, unit)

    return work_attempts(store, one_by_one, rank=rank, world=world, progress=progress)


def work_attempts(
    store: UnitStore,
    attempts: Attempts,
    *,
    rank: int = 0,
    world: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest | None:
    """Do as `work_units`, with `attempts` deciding how units are tried."""
    if store.manifest() is not None:
        store.tidy()
        return open_complete(store)
    given_up: dict[int, str] = {}
    done, total = 0, None
    while todo := [unit for unit in store.pending(rank, world) if unit not in given_up]:
        total = total or len(todo)
        tried = 0
        for tried, (unit, error) in enumerate(attempts(todo), start=1):  # noqa: B007  # needed after the loop
            if error is None:
                done += 1
            elif store.record_failure(unit, error):
                given_up[unit] = error
            if progress is not None:
                progress(done, total)
        if tried < len(todo):
            return None
        if not any(unit not in given_up for unit in store.pending(rank, world)):
            manifest = store.finalize()
            if manifest is not None:
                return manifest
    return _end(store, given_up)


def attempt(store: UnitStore, compute: Callable[[int], object], unit: int) -> str | None:
    """Compute one unit; return the error as text if it concerns this unit alone, otherwise None."""
    store.start(unit)
    try:
        compute(unit)
    except UNIT_ERRORS as error:
        return f"{type(error).__name__}: {error}"
    return None if store.receipt(unit) is not None else "no receipt was written"


def _end(store: UnitStore, given_up: dict[int, str]) -> Manifest | None:
    """End a rank that has no pending units; write the manifest if the other ranks have ended too."""
    if given_up:
        first = min(given_up)
        found = f"{len(given_up)} failed, the first is unit {first} with {given_up[first]}"
        hint = f"run `{store.command}` again to repeat only those"
        raise PartialError(str(store.root), f"{store.plan.units} units", found, hint)
    return store.finalize()
