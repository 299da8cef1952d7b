"""The loop that fills a unit store: serial, by workers, on a cluster or resumed, it is the same loop."""

from collections.abc import Callable, Iterator, Sequence

from sparserm_cli.errors import PartialError
from sparserm_cli.store.units.integrity import open_complete
from sparserm_cli.store.units.records import Manifest
from sparserm_cli.store.units.unit_store import UnitStore

UNIT_ERRORS = (PartialError, RuntimeError, MemoryError)
"""What spoils one unit but not the next: a bad row, and torch's out-of-memory, which is a RuntimeError."""

Attempts = Callable[[Sequence[int]], Iterator[tuple[int, str | None]]]
"""Tries units in any order and yields each with what went wrong or None; to end before all is to stop."""


def work_units(
    store: UnitStore,
    compute: Callable[[int], object],
    *,
    rank: int = 0,
    world: int = 1,
    progress: Callable[[int, int], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Manifest | None:
    """Compute this rank's pending units one by one, then write the manifest if nobody has any left.

    Args:
        store: the planned store.
        compute: computes and commits one unit; PartialError, RuntimeError and MemoryError are noted against
            the unit, tried three times; any other error ends the run, keeping what is done.
        rank: this worker's number from 0.
        world: how many workers share the plan.
        progress: called with units done and units to do of this rank.
        stop: asked before each unit; true ends the loop with the unit in hand finished.

    Returns:
        the manifest of the complete store; None if it was stopped or other ranks still have units.

    Raises:
        PartialError: some units failed three times; the others are done.
        CorruptStoreError: the store was complete but a file is not there as recorded.

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
    """Do as `work_units`, in whatever way `attempts` tries units."""
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
    """Compute one unit; return what went wrong, if it concerns this unit alone."""
    store.start(unit)
    try:
        compute(unit)
    except UNIT_ERRORS as error:
        return f"{type(error).__name__}: {error}"
    return None if store.receipt(unit) is not None else "no receipt was written"


def _end(store: UnitStore, given_up: dict[int, str]) -> Manifest | None:
    """Finish a rank with nothing left to do: other ranks may have finished meanwhile."""
    if given_up:
        first = min(given_up)
        found = f"{len(given_up)} failed, the first is unit {first} with {given_up[first]}"
        hint = f"run `{store.command}` again to repeat only those"
        raise PartialError(str(store.root), f"{store.plan.units} units", found, hint)
    return store.finalize()
