"""Actors that get into trouble; a module of its own, since Ray's processes import what they run."""

import os
import signal
import time

from sparserm_cli.stages.ray_engine import UnitActor


class SlowActor(UnitActor):
    """Writes down its pid and then takes its time, for the third unit, once."""

    def attempt(self, unit: int) -> str | None:
        """Wait to be killed in the middle of a unit."""
        mark = self._writer.root.parent / "third.pid"
        if unit == 2 and not mark.exists():
            part = mark.with_suffix(".part")
            part.write_text(str(os.getpid()))
            part.rename(mark)
            time.sleep(60)
        return UnitActor.attempt(self, unit)


class FailingActor(UnitActor):
    """Dies of its second unit, every time."""

    def attempt(self, unit: int) -> str | None:
        """Die like one that is out of memory."""
        if unit == 1 and not (self._writer.root.parent / "mended").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        return UnitActor.attempt(self, unit)
