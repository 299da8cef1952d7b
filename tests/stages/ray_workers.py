"""Workers of which one is killed; a module of its own, since Ray's processes import what they run."""

from ray_toys import die

from sparserm_cli.stages.encode_units import EncodeWorker
from sparserm_cli.stages.fused import FusedWorker
from sparserm_cli.stages.units import CaptureWorker


class Killed:
    """Is killed once: with the data of the third unit on the disk, but not its receipt."""

    def compute(self, unit: int) -> None:
        """Compute a unit, perhaps up to its receipt."""
        mark = self.store.root.parent / "killed"
        if unit == 2 and not mark.exists():
            mark.touch()
            self.store.commit = lambda *_: die()
        super().compute(unit)


class KilledCapture(Killed, CaptureWorker):
    """Of extract."""


class KilledFused(Killed, FusedWorker):
    """Of extract --sae."""


class KilledEncode(Killed, EncodeWorker):
    """Of encode."""
