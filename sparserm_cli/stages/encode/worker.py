"""Encode the units of planned features: from activations to sparse rows of latents.

Axes: tokens (response tokens of a unit), d_in (width of the residual stream), d_sae (latents).
Memory: the SAEs, one unit of activations with its latents, and one tile of pre-activations.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int32
from torch import Tensor

from sparserm_cli.config import EncodeConfig, ExtractConfig, Note, Progress
from sparserm_cli.models.lm.devices import choose_device
from sparserm_cli.models.sae.autoencoder import SparseAutoencoder
from sparserm_cli.models.sae.load import load_sae
from sparserm_cli.models.sae.quality import SAEQuality, check_sample
from sparserm_cli.models.sae.sparse_encoder import Encoded, SparseEncoder
from sparserm_cli.stages.encode.sae_layers import sae_facts
from sparserm_cli.stages.engine.engine import UnitWorker
from sparserm_cli.stages.engine.progress import tokens_done
from sparserm_cli.store.arrays.csr import Csr, index_type
from sparserm_cli.store.capture.artifact import capture_path
from sparserm_cli.store.capture.reader import ActivationsReader
from sparserm_cli.store.features.artifact import features_path
from sparserm_cli.store.features.plan import SAEFacts
from sparserm_cli.store.features.writer import FeaturesWriter
from sparserm_cli.store.units.records import UnitFacts
from sparserm_cli.store.units.unit_store import UnitStore

SAMPLE_ROWS = 4096
"""Largest number of tokens that an SAE is checked on before encoding."""


class UnitActivations(NamedTuple):
    """The response tokens of one unit at one layer."""

    x: Float[Tensor, "tokens d_in"]
    """Residual stream, bfloat16 or float32."""
    usable: Bool[Tensor, " tokens"]
    """Mask of the tokens whose residual vector could be computed."""

    @property
    def usable_rows(self) -> Float[Tensor, "rows d_in"]:
        """The rows of the usable tokens."""
        return self.x[self.usable]


class Examined(NamedTuple):
    """Facts about the loaded SAEs, and how well they fit the activations."""

    facts: list[SAEFacts]
    """Facts of one SAE per layer, in the order of the layers."""
    samples: dict[int, SAEQuality]
    """Layer to the fit of its SAE to a sample of the activations."""


class UnitEncoder:
    """Encodes units one after the other; the SAEs are loaded for the first unit.

    Args:
        config: the options.
        names: layer to SAE.
        run_id: id of the run, for the unit records.
        chunk_rows: number of tokens that an SAE encodes at a time.
        progress: called with tokens encoded and tokens in all, where each token counts once per layer.

    """

    def __init__(
        self,
        config: EncodeConfig | ExtractConfig,
        names: Mapping[int, str],
        run_id: str,
        *,
        chunk_rows: int = EncodeConfig.chunk_rows,
        progress: Progress = lambda _done, _total: None,
    ) -> None:
        self._config, self._names, self._run_id = config, names, run_id
        self._chunk_rows, self._progress, self._done = chunk_rows, progress, 0

    @cached_property
    def saes(self) -> dict[int, SparseAutoencoder]:
        """Layer to SAE, with its tensors on the device."""
        return load_saes(self._names, self._config)

    @cached_property
    def writer(self) -> FeaturesWriter:
        """Writer of the planned features."""
        return FeaturesWriter(features_path(self._config.run), self._run_id)

    @cached_property
    def _encoders(self) -> dict[int, SparseEncoder]:
        """Layer to its encoder; units that are done already count as progress."""
        done = tokens_done(self.writer.store, self.writer.rows, self._config.worker)
        self._done = done * len(self.saes)
        return {layer: SparseEncoder(self.saes[layer]) for layer in self.writer.plan.layers}

    def examine(self, sample: Callable[[int], Float[Tensor, "tokens d_in"]]) -> Examined:
        """Load the SAEs and measure them on a sample of the activations.

        Args:
            sample: returns residual vectors of a layer.

        Raises:
            IncompatibleError: an SAE's weights are broken, or do not fit the activations.
            ResourceError: the device is missing.

        """
        samples = sample_saes(self.saes, sample)
        facts = [sae_facts(sae.metadata, sae.digest, layer) for layer, sae in self.saes.items()]
        return Examined(facts, samples)

    def compute(self, unit: int, read: Callable[[int], UnitActivations]) -> None:
        """Encode and write one unit.

        Args:
            unit: number of the unit.
            read: returns the activations of the unit at a layer.

        Raises:
            CorruptStoreError: the unit's activations are damaged.
            ResourceError: the disk is full.

        """
        begun = time.monotonic()
        layers = {layer: self._encoded(encoder, *read(layer)) for layer, encoder in self._encoders.items()}
        device = next(iter(self._encoders.values())).device
        facts = UnitFacts(rows=0, device=device, seconds=round(time.monotonic() - begun, 3))
        self.writer.write_unit(unit, layers, facts)

    def _encoded(
        self, encoder: SparseEncoder, x: Float[Tensor, "tokens d_in"], usable: Bool[Tensor, " tokens"]
    ) -> Csr:
        """Encode a unit's tokens with one SAE, chunk by chunk.

        A chunk is a whole number of the encoder's tiles, so that the result does not depend on its size.
        """
        chunk = -(-self._chunk_rows // encoder.tile) * encoder.tile
        parts: list[Encoded] = []
        for start in range(0, len(x), chunk):
            parts.append(_without(encoder.encode(x[start : start + chunk]), usable[start : start + chunk]))
            self._done += len(x[start : start + chunk])
            self._progress(self._done, self.writer.plan.layout.response_tokens * len(self.saes))
        return to_csr(parts, encoder.sae.d_sae)


class EncodeWorker(UnitWorker):
    """Encodes units of a complete capture.

    Args:
        config: the options.
        names: layer to SAE.
        run_id: id of the run, for the unit records.
        progress: called with tokens encoded and tokens in all, where each token counts once per layer.
        note: is not used.

    """

    def __init__(
        self,
        config: EncodeConfig,
        names: Mapping[int, str],
        run_id: str,
        *,
        progress: Progress,
        note: Note,  # the interface of a worker; this one has no messages
    ) -> None:
        self._capture = ActivationsReader(capture_path(config.run))
        self._encoder = UnitEncoder(config, names, run_id, chunk_rows=config.chunk_rows, progress=progress)

    @property
    def store(self) -> UnitStore:
        """Store of the units of the features."""
        return self._encoder.writer.store

    def examine(self) -> Examined:
        """Load the SAEs and measure them on the first unit; raises as `UnitEncoder.examine`."""
        first = self._capture.units[0]
        return self._encoder.examine(lambda layer: self._read(layer, first).usable_rows)

    def compute(self, unit: int) -> None:
        """Encode and write one unit; raises as `UnitEncoder.compute`."""
        self._encoder.compute(unit, lambda layer: self._read(layer, unit))

    def _read(self, layer: int, unit: int) -> UnitActivations:
        return unit_activations(self._capture, layer, unit)


def unit_activations(capture: ActivationsReader, layer: int, unit: int) -> UnitActivations:
    """Return one unit's response tokens; tokens of responses that the capture rejected are not usable."""
    block = capture.unit_tokens(layer, unit, raw=True)
    return usable_activations(block.rows, block.responses, block.lengths, capture.rejected)


def usable_activations(
    rows: np.ndarray,
    responses: range,
    lengths: Int32[np.ndarray, " responses"],
    rejected: Sequence[int],
) -> UnitActivations:
    """Return tokens as a tensor; tokens of rejected responses are zero and marked as not usable.

    Args:
        rows: shape (tokens, d_in), float32, or bfloat16 bits as uint16.
        responses: numbers of the unit's responses.
        lengths: number of tokens of each response.
        rejected: numbers of responses that were rejected.

    """
    narrow = rows.dtype == np.uint16
    x = torch.from_numpy(rows.view(np.int16)).view(torch.bfloat16) if narrow else torch.from_numpy(rows)
    left_out = np.isin(np.arange(responses.start, responses.stop), rejected)
    usable = torch.from_numpy(np.repeat(~left_out, lengths))
    return UnitActivations(x if usable.all() else x.masked_fill(~usable.unsqueeze(1), 0), usable)


def to_csr(parts: list[Encoded], d_sae: int) -> Csr:
    """Join encoded chunks into the sparse matrix that the store keeps."""
    counts = np.concatenate([np.zeros(1, np.int64), *(part.counts.cpu().numpy() for part in parts)])
    data = np.concatenate([np.zeros(0, np.float32), *(part.data.cpu().numpy() for part in parts)])
    kind = index_type(d_sae)
    indices = np.concatenate(
        [np.zeros(0, kind), *(part.indices.cpu().numpy().astype(kind) for part in parts)]
    )
    return Csr(data, indices, np.cumsum(counts))


def _without(encoded: Encoded, usable: Tensor) -> Encoded:
    """Remove all latents from the rows that are not usable."""
    if usable.all():
        return encoded
    usable = usable.to(encoded.counts.device)
    kept = usable.repeat_interleave(encoded.counts)
    return Encoded(encoded.data[kept], encoded.indices[kept], encoded.counts * usable)


def load_saes(names: Mapping[int, str], config: EncodeConfig | ExtractConfig) -> dict[int, SparseAutoencoder]:
    """Load the SAE of each layer onto the device.

    Args:
        names: layer to SAE.
        config: the options.

    Raises:
        IncompatibleError: the weights of an SAE are broken.
        ResourceError: the device is missing.

    """
    device = choose_device(config.device)
    return {
        layer: load_sae(
            name, device=device, allow_pickle=config.allow_pickle, allow_mismatch=config.allow_mismatch
        )
        for layer, name in names.items()
    }


def sample_saes(
    saes: Mapping[int, SparseAutoencoder],
    sample: Callable[[int], Float[Tensor, "tokens d_in"]],
    *,
    judge: bool = True,
) -> dict[int, SAEQuality]:
    """Measure the SAE of each layer on a sample of the activations.

    Args:
        saes: layer to SAE.
        sample: returns residual vectors of a layer.
        judge: whether to refuse an SAE that does not fit.

    Raises:
        IncompatibleError: an SAE does not fit the activations.

    """
    samples = {}
    for layer, sae in saes.items():
        x = sample(layer)
        step = max(1, len(x) // SAMPLE_ROWS)
        samples[layer] = check_sample(sae, x[::step][:SAMPLE_ROWS], judge=judge)
    return samples
