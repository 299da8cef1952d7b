"""The fused pass of `extract --sae`: store the latents of each token and not its residual vector.

A unit's latents are on the disk before its pooled vectors, so that the unit's record guarantees both.

Memory: in addition to that of `extract`, the SAEs, one unit of latents and one tile of pre-activations.
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
    """Computes units of a capture, and stores the latents of their tokens in `features.zarr`.

    Args:
        request: request for a capture with positions `latents`.
        root: folder of the planned capture.
        run_id: id of the run, for the unit records.
        names: layer to SAE.
        progress: called with response tokens computed and response tokens in all.
        note: called with the chosen number type and device, and the reason.

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
        """The encoder that fills the features."""
        from sparserm_cli.stages.encode.worker import UnitEncoder

        return UnitEncoder(self._request.config, self._names, self.store.run_id)

    def examine(self) -> "Examined":
        """Load the SAEs and measure them on a sample of activations; raises as `UnitEncoder.examine`."""
        from sparserm_cli.stages.encode.worker import SAMPLE_ROWS

        sampled = self.sample(SAMPLE_ROWS)
        return self._encoder.examine(lambda layer: sampled[layer])

    def take_tokens(
        self, unit: int, layers: Mapping[int, dict[str, np.ndarray]], rejected: tuple[int, ...]
    ) -> None:
        """Encode a unit's tokens, write their latents, and remove the tokens from the unit's arrays."""
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
    """Plan or continue the encoding of a capture; return its store, or None if both are complete.

    Args:
        engine: engine of the workers.
        request: request for a capture with positions `latents`.
        capture: writer of the planned capture.
        names: layer to SAE.
        note: called with how well the SAEs fit.

    Raises:
        IncompatibleError: an SAE does not fit, or the run has features of another SAE.
        CorruptStoreError: an existing artifact is damaged.
        ResourceError: disk, memory or device do not suffice.

    """
    config = request.config
    root = features_path(config.run)
    complete = capture.store.manifest() is not None
    if complete and finished_features(root, ActivationsReader(capture.root), names) is not None:
        return None
    # A sample of activations shows whether the weights of the SAEs match their metadata.
    examined = engine.ask(FusedWorker.examine)
    # The plan of the encoding has the capture's plan as its parent; a unit is done when both stores have it.
    plan_encoding(root, capture, examined, config, note)
    store = FeaturesWriter(root, capture.store.run_id).store
    _drop_half_finished(capture.store, store, config.worker)
    return store


def finish_latents(store: UnitStore, digest: str) -> None:
    """Write the manifest of the encoding, if no other worker still has units.

    Args:
        store: store of the encoding.
        digest: digest of the complete capture.

    """
    if store.manifest() is None:
        store.finalize({ACTIVATIONS: digest})


def _drop_half_finished(capture: UnitStore, features: UnitStore, worker: tuple[int, int]) -> None:
    """Drop the units that only one store has; tokens are not kept, so that both are computed again."""
    stores = (capture, features)
    pending = [set(store.pending(*worker)) for store in stores]
    for store, missing, others in zip(stores, pending, reversed(pending), strict=True):
        if behind := sorted(others - missing):
            store.drop(behind)
