"""The fused pass of `extract --sae`: latents are stored as the residual stream goes by, its tokens are not.

A unit's latents are on the disk before its pooled vectors, so a capture's receipt vouches for both.

Memory: besides that of `extract`, the SAEs, one unit of latents and one tile of pre-activations.
"""

from collections.abc import Mapping
from functools import cached_property
from pathlib import PurePath
from typing import TYPE_CHECKING

import numpy as np

from sparserm_cli.config import Note, Progress
from sparserm_cli.stages.encode.encode import finished_features, plan_encoding
from sparserm_cli.stages.engine.engine import Engine
from sparserm_cli.stages.extract.request import Request
from sparserm_cli.stages.extract.worker import CaptureWorker
from sparserm_cli.store.capture.layout import ACTIVATIONS
from sparserm_cli.store.capture.reader import ActivationsReader
from sparserm_cli.store.capture.writer import ActivationsWriter
from sparserm_cli.store.features.artifact import features_path
from sparserm_cli.store.features.writer import FeaturesWriter
from sparserm_cli.store.units.unit_store import UnitStore

if TYPE_CHECKING:
    from sparserm_cli.stages.encode.worker import Examined, UnitEncoder


class FusedWorker(CaptureWorker):
    """Computes units of a capture, and leaves the latents of their tokens in `features.zarr`.

    Args:
        request: what is captured, as `latents`.
        root: the planned capture.
        run_id: of the run, for receipts.
        names: layer to SAE.
        progress: called with response tokens computed and response tokens in all.
        note: told which type and device were chosen, and why.

    """

    def __init__(
        self,
        request: Request,
        root: PurePath,
        run_id: str,
        names: Mapping[int, str],
        *,
        progress: Progress,
        note: Note,
    ) -> None:
        super().__init__(request, root, run_id, progress=progress, note=note)
        self._names = names

    @cached_property
    def _encoder(self) -> "UnitEncoder":
        """What fills the features."""
        from sparserm_cli.stages.encode.worker import UnitEncoder

        return UnitEncoder(self._request.config, self._names, self.store.run_id)

    def examine(self) -> "Examined":
        """Load the SAEs and measure them on what the model computes; raises as `UnitEncoder.examine`."""
        from sparserm_cli.stages.encode.worker import SAMPLE_ROWS

        sampled = self.sample(SAMPLE_ROWS)
        return self._encoder.examine(lambda layer: sampled[layer])

    def take_tokens(
        self, unit: int, layers: Mapping[int, dict[str, np.ndarray]], rejected: tuple[int, ...]
    ) -> None:
        """Encode and write a unit's tokens, and take them out of its arrays."""
        from sparserm_cli.stages.encode.worker import usable_activations

        span, lengths = self.writer.rows.span(unit), self.writer.rows.lengths(unit)
        tokens = {layer: arrays.pop("tokens") for layer, arrays in layers.items()}
        self._encoder.writer.store.start(unit)
        self._encoder.compute(
            unit, lambda layer: usable_activations(tokens.pop(layer), span, lengths, rejected)
        )


def plan_latents(
    engine: Engine[FusedWorker],
    request: Request,
    capture: ActivationsWriter,
    names: Mapping[int, str],
    note: Note,
) -> UnitStore | None:
    """Prepare the encoding that belongs to a capture, or continue it; None if both are complete.

    Args:
        engine: has the workers.
        request: what is captured, as `latents`.
        capture: as it is planned.
        names: layer to SAE.
        note: told how well the SAEs fit.

    Raises:
        IncompatibleError: an SAE does not fit, or there are features of another SAE.
        CorruptStoreError: what is there is damaged.
        ResourceError: disk, memory or device are not to be had.

    """
    config = request.config
    root = features_path(config.run)
    complete = capture.store.manifest() is not None
    if complete and finished_features(root, ActivationsReader(capture.root), names) is not None:
        return None
    # A sample of what the model computes shows whether the SAEs are what their labels say.
    examined = engine.ask(FusedWorker.examine)
    # The encoding is planned with the capture's plan for a parent; a unit is done when both have it.
    plan_encoding(root, capture, examined, config, note)
    store = FeaturesWriter(root, capture.store.run_id).store
    _level(capture.store, store, config.worker)
    return store


def finish_latents(store: UnitStore, digest: str) -> None:
    """Write the manifest of the encoding, if no other worker still has units.

    Args:
        store: the encoding.
        digest: that of the complete capture.

    """
    if store.manifest() is None:
        store.finalize({ACTIVATIONS: digest})


def _level(capture: UnitStore, features: UnitStore, worker: tuple[int, int]) -> None:
    """Drop the units that only one of the two has; tokens are not kept, so both are made again."""
    stores = (capture, features)
    pending = [set(store.pending(*worker)) for store in stores]
    for store, missing, others in zip(stores, pending, reversed(pending), strict=True):
        if behind := sorted(others - missing):
            store.drop(behind)
