"""Encoding the units of planned features: activations in, sparse rows out.

Axes: tokens (response tokens of a unit), d_in (width of the residual stream), d_sae (latents).
Memory: the SAEs, one unit of activations with its latents, and one tile of pre-activations.
"""

import copy
import time
from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparserm_cli.config import EncodeConfig, Note, Progress
from sparserm_cli.models.backbone import choose_device
from sparserm_cli.models.sae import SparseAutoencoder, load_sae
from sparserm_cli.models.sae_check import SAEQuality, check_sample
from sparserm_cli.models.sae_encode import Encoded, SparseEncoder
from sparserm_cli.store.activations import ActivationsReader
from sparserm_cli.store.csr import Csr, index_type
from sparserm_cli.store.features import FeaturesWriter
from sparserm_cli.store.receipts import UnitFacts

SAMPLE_ROWS = 4096
"""Tokens of the sample check, at most."""


class UnitEncoder:
    """Encodes units one after the other.

    Args:
        capture: the activations.
        writer: the planned features.
        saes: layer to SAE, on the device.
        config: the options.
        progress: called with tokens encoded and tokens in all.

    Attributes:
        computed: units computed so far.
        seconds: time spent on them.

    """

    def __init__(
        self,
        capture: ActivationsReader,
        writer: FeaturesWriter,
        saes: Mapping[int, SparseAutoencoder],
        config: EncodeConfig,
        progress: Progress,
    ) -> None:
        self._capture, self._writer, self._config, self._progress = capture, writer, config, progress
        self._encoders = {layer: SparseEncoder(saes[layer]) for layer in writer.plan.layers}
        self._total = writer.plan.layout.response_tokens * len(self._encoders)
        self._done = self._tokens_done()
        self.computed, self.seconds = 0, 0.0

    def compute(self, unit: int) -> None:
        """Encode and write one unit.

        Raises:
            CorruptStoreError: the unit's activations are damaged.
            ResourceError: the disk is full.

        """
        begun = time.monotonic()
        layers = {layer: self._encoded(unit, layer, encoder) for layer, encoder in self._encoders.items()}
        device = next(iter(self._encoders.values())).device
        told = UnitFacts(rows=0, device=device, seconds=round(time.monotonic() - begun, 3))
        self._writer.write_unit(unit, layers, told)
        self.computed += 1
        self.seconds += time.monotonic() - begun

    def _encoded(self, unit: int, layer: int, encoder: SparseEncoder) -> Csr:
        """Send a unit's tokens through one SAE, chunk by chunk.

        A chunk is a whole number of the encoder's tiles, so its size changes nothing in the result.
        """
        x, usable = unit_activations(self._capture, layer, unit)
        chunk = -(-self._config.chunk_rows // encoder.tile) * encoder.tile
        parts: list[Encoded] = []
        for start in range(0, len(x), chunk):
            parts.append(_without(encoder.encode(x[start : start + chunk]), usable[start : start + chunk]))
            self._done += len(x[start : start + chunk])
            self._progress(self._done, self._total)
        return to_csr(parts, encoder.sae.d_sae)

    def _tokens_done(self) -> int:
        """Return the tokens of units that need not be encoded any more, counted once a layer."""
        pending = set(self._writer.store.pending(*self._config.worker))
        units = (unit for unit in range(self._writer.plan.layout.units) if unit not in pending)
        return len(self._encoders) * sum(int(self._writer.rows.lengths(unit).sum()) for unit in units)


def unit_activations(
    capture: ActivationsReader, layer: int, unit: int
) -> tuple[Float[Tensor, "tokens d_in"], Bool[Tensor, " tokens"]]:
    """Return one unit's response tokens, bfloat16 or float32, and which of them are usable.

    Tokens of responses that the capture rejected are zeros and not usable.
    """
    one = copy.copy(capture)
    one.units = [unit]
    block = next(one.iter_tokens(layer, raw=True))
    narrow = block.rows.dtype == np.uint16
    x = (
        torch.from_numpy(block.rows.view(np.int16)).view(torch.bfloat16)
        if narrow
        else torch.from_numpy(block.rows)
    )
    rejected = np.isin(np.arange(block.responses.start, block.responses.stop), capture.rejected)
    usable = torch.from_numpy(np.repeat(~rejected, block.lengths))
    return (x if usable.all() else x.masked_fill(~usable.unsqueeze(1), 0)), usable


def to_csr(parts: list[Encoded], d_sae: int) -> Csr:
    """Join encoded chunks into the matrix that the store keeps."""
    counts = np.concatenate([np.zeros(1, np.int64), *(part.counts.cpu().numpy() for part in parts)])
    data = np.concatenate([np.zeros(0, np.float32), *(part.data.cpu().numpy() for part in parts)])
    kind = index_type(d_sae)
    indices = np.concatenate(
        [np.zeros(0, kind), *(part.indices.cpu().numpy().astype(kind) for part in parts)]
    )
    return Csr(data, indices, np.cumsum(counts))


def _without(encoded: Encoded, usable: Tensor) -> Encoded:
    """Empty the rows that are not usable."""
    if usable.all():
        return encoded
    usable = usable.to(encoded.counts.device)
    kept = usable.repeat_interleave(encoded.counts)
    return Encoded(encoded.data[kept], encoded.indices[kept], encoded.counts * usable)


def load_and_sample(
    names: Mapping[int, str], capture: ActivationsReader, config: EncodeConfig, note: Note
) -> tuple[dict[int, SparseAutoencoder], dict[int, SAEQuality]]:
    """Load the SAE of each layer and measure it on tokens of the first unit.

    Raises:
        IncompatibleError: its weights are broken, or do not fit the activations.
        ResourceError: the device is not there.

    """
    device = choose_device(config.device)
    saes, samples = {}, {}
    for layer, name in names.items():
        saes[layer] = load_sae(
            name, device=device, allow_pickle=config.allow_pickle, allow_mismatch=config.allow_mismatch
        )
        samples[layer] = _sampled(saes[layer], capture, layer, config, note)
    return saes, samples


def _sampled(
    sae: SparseAutoencoder, capture: ActivationsReader, layer: int, config: EncodeConfig, note: Note
) -> SAEQuality:
    """Measure an SAE on tokens of the first unit and say what came out."""
    x, usable = unit_activations(capture, layer, capture.units[0])
    sample = x[usable]
    step = max(1, len(sample) // SAMPLE_ROWS)
    quality = check_sample(sae, sample[::step][:SAMPLE_ROWS], allow_mismatch=config.allow_mismatch)
    note(
        f"layer {layer}: {sae.metadata.architecture} SAE, {sae.d_sae:,} latents; on {quality.tokens:,} tokens"
        f" it explains {quality.explained_variance:.3f} of the variance, L0 {quality.l0:.1f}"
    )
    return quality
