"""Workers of which one is killed; a module of its own, since Ray's processes import what they run."""

from pathlib import Path
from typing import Any

from helpers.ray_toys import die
from sparserm_cli.stages.encode.worker import EncodeWorker
from sparserm_cli.stages.engine.engine import Lost
from sparserm_cli.stages.extract.fused import FusedWorker
from sparserm_cli.stages.extract.worker import CaptureWorker
from sparserm_cli.stages.score.windows import ScoreWorker, Window

KILLED = Path("killed")
"""Is there, in the driver's working directory, once one has been killed."""


class Killed:
    """Is killed once: with the data of the third unit on the disk, but not its receipt."""

    def compute(self, unit: int) -> None:
        """Compute a unit, perhaps up to its receipt."""
        if unit == 2 and not KILLED.exists():
            KILLED.touch()
            self.store.commit = lambda *_: die()
        super().compute(unit)


class KilledCapture(Killed, CaptureWorker):
    """Of extract."""


class KilledFused(Killed, FusedWorker):
    """Of extract --sae."""


class KilledEncode(Killed, EncodeWorker):
    """Of encode."""


class KilledScore(ScoreWorker):
    """Is killed once, on the third window."""

    def score(self, window: Window) -> list[dict[str, Any]] | Lost:
        """Score, or die."""
        if window.number == 2 and not KILLED.exists():
            KILLED.touch()
            die()
        return super().score(window)
