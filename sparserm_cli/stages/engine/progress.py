"""Count how many tokens earlier runs have finished."""

from sparserm_cli.store.capture.rows import Rows
from sparserm_cli.store.units.unit_store import UnitStore


def tokens_done(store: UnitStore, rows: Rows, worker: tuple[int, int]) -> int:
    """Return the number of response tokens in units that this worker need not compute any more."""
    pending = set(store.pending(*worker))
    return sum(int(rows.lengths(unit).sum()) for unit in range(store.plan.units) if unit not in pending)
