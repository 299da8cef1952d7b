"""A unit store without zarr: each unit is one small file, so that the engine alone is tested, and fast."""

from pathlib import Path

from sparserm_cli.store.io.atomic import atomic_folder
from sparserm_cli.store.io.file_facts import FileFact
from sparserm_cli.store.io.storage import storage_of
from sparserm_cli.store.units.records import Plan, UnitFacts
from sparserm_cli.store.units.unit_store import UnitStore, write_plan

UNITS = 4


def toy_plan(root: Path, seed: int = 0, units: int = UNITS) -> None:
    """Make the store unless it is there."""
    if root.exists():
        return
    with atomic_folder(root) as part:
        storage_of(part / "static").write_atomic(b"static")
        files = (FileFact("static", 6, storage_of(part / "static").digest()),)
        write_plan(part, Plan("toy", 1, {"seed": seed}, {"units": units}, files))


def toy_store(root: Path, run_id: str = "r") -> UnitStore:
    """Open the store."""
    return UnitStore(root, "toy", 1, "sparserm toy", run_id)


def toy_bytes(store: UnitStore, unit: int) -> bytes:
    """Return what a unit consists of."""
    return f"{store.plan.identity['seed']}:{unit}|".encode() * (unit + 3)


def toy_compute(store: UnitStore, unit: int) -> None:
    """Compute and commit one unit."""
    storage_of(store.root / "data").make_folder()
    storage_of(store.root / "data" / f"{unit}.bin").write_atomic(toy_bytes(store, unit))
    store.commit(unit, [f"data/{unit}.bin"], UnitFacts(rows=unit + 3))
