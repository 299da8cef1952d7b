"""Workers that load nothing, so that the engine alone is tested: they fill the store's tests' toy."""

import os
import signal
from pathlib import Path
from typing import Any

from helpers.toy_units import toy_compute, toy_store
from sparserm_cli.errors import ResourceError
from sparserm_cli.stages.engine.engine import UnitWorker
from sparserm_cli.store.units.unit_store import UnitStore


def die() -> None:
    """End like a process that the system had no memory for."""
    os.kill(os.getpid(), signal.SIGKILL)


class Toy(UnitWorker):
    """Fills the toy store, for which a relative path will do."""

    def __init__(self, root: Path, **_: Any) -> None:
        self._store = toy_store(root)

    @property
    def store(self) -> UnitStore:
        """The toy store."""
        return self._store

    def compute(self, unit: int) -> None:
        """Compute a unit."""
        toy_compute(self.store, unit)


class Failing(Toy):
    """Dies of its second unit, every time, until it is mended."""

    def compute(self, unit: int) -> None:
        """Die, or compute."""
        if unit == 1 and not Path("mended").exists():
            die()
        super().compute(unit)


class FullDisk(Toy):
    """Has no room for its second unit."""

    def compute(self, unit: int) -> None:
        """Fail for good, or compute."""
        if unit == 1:
            raise ResourceError("the disk", "4 bytes free", "3", "make room")
        super().compute(unit)


class Stillborn(Toy):
    """Dies before it is ready."""

    def __init__(self, *_: Any, **__: Any) -> None:
        die()
