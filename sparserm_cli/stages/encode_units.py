"""Encoding the units of planned features: activations in, sparse rows out.

Axes: tokens (response tokens of a unit), d_in (width of the residual stream), d_sae (latents).
Memory: the SAEs, one unit of activations with its latents, and one tile of pre-activations.
"""

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int32
from torch import Tensor

from sparserm_cli.config import EncodeConfig, ExtractConfig, Note, Progress
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


class UnitActivations(NamedTuple):
    """The response tokens of one unit at one layer."""

    x: Float[Tensor, "tokens d_in"]
    """Residual stream, bfloat16 or float32."""
    usable: Bool[Tensor, " tokens"]
    """Whether it could be computed."""

    @property
    def usable_rows(self) -> Float[Tensor, "rows d_in"]:
        """Those that could."""
        return self.x[self.usable]


class UnitEncoder:
    """Encodes units one after the other.

    Args:
        writer: the planned features.
        saes: layer to SAE, on the device.
        chunk_rows: tokens that go through an SAE at a time.
        progress: called with tokens encoded and tokens in all, counted once a layer.
        done: tokens that need not be encoded any more, counted so.

    Attributes:
        computed: units computed so far.
        seconds: time spent on them.

    """

    def __init__(
        self,
        writer: FeaturesWriter,
        saes: Mapping[int, SparseAutoencoder],
        *,
        chunk_rows: int = EncodeConfig.chunk_rows,
        progress: Progress = lambda _done, _total: None,
        done: int = 0,
    ) -> None:
        self._writer, self._chunk_rows, self._progress, self._done = writer, chunk_rows, progress, done
        self._encoders = {layer: SparseEncoder(saes[layer]) for layer in writer.plan.layers}
        self._total = writer.plan.layout.response_tokens * len(self._encoders)
        self.computed, self.seconds = 0, 0.0

    def compute(self, unit: int, read: Callable[[int], UnitActivations]) -> None:
        """Encode and write one unit.

        Args:
            unit: its number.
            read: gives its activations at a layer.

        Raises:
            CorruptStoreError: the unit's activations are damaged.
            ResourceError: the disk is full.

        """
        begun = time.monotonic()
        layers = {layer: self._encoded(encoder, *read(layer)) for layer, encoder in self._encoders.items()}
        device = next(iter(self._encoders.values())).device
        told = UnitFacts(rows=0, device=device, seconds=round(time.monotonic() - begun, 3))
        self._writer.write_unit(unit, layers, told)
        self.computed += 1
        self.seconds += time.monotonic() - begun

    def _encoded(
        self, encoder: SparseEncoder, x: Float[Tensor, "tokens d_in"], usable: Bool[Tensor, " tokens"]
    ) -> Csr:
        """Send a unit's tokens through one SAE, chunk by chunk.

        A chunk is a whole number of the encoder's tiles, so its size changes nothing in the result.
        """
        chunk = -(-self._chunk_rows // encoder.tile) * encoder.tile
        parts: list[Encoded] = []
        for start in range(0, len(x), chunk):
            parts.append(_without(encoder.encode(x[start : start + chunk]), usable[start : start + chunk]))
            self._done += len(x[start : start + chunk])
            self._progress(self._done, self._total)
        return to_csr(parts, encoder.sae.d_sae)


def tokens_encoded(writer: FeaturesWriter, worker: tuple[int, int]) -> int:
    """Return the tokens of units that this worker need not encode any more, counted once a layer."""
    pending = set(writer.store.pending(*worker))
    units = (unit for unit in range(writer.plan.layout.units) if unit not in pending)
    return len(writer.plan.layers) * sum(int(writer.rows.lengths(unit).sum()) for unit in units)


def unit_activations(capture: ActivationsReader, layer: int, unit: int) -> UnitActivations:
    """Return one unit's response tokens; those of responses that the capture rejected are not usable."""
    one = copy.copy(capture)
    one.units = [unit]
    block = next(one.iter_tokens(layer, raw=True))
    return usable_activations(block.rows, block.responses, block.lengths, capture.rejected)


def usable_activations(
    rows: np.ndarray,
    responses: range,
    lengths: Int32[np.ndarray, " responses"],
    rejected: Sequence[int],
) -> UnitActivations:
    """Return tokens as a tensor, those of rejected responses as zeros and not usable.

    Args:
        rows: shape (tokens, d_in), float32, or bfloat16 bits as uint16.
        responses: numbers of the unit's responses.
        lengths: their tokens.
        rejected: numbers of responses that were rejected.

    """
    narrow = rows.dtype == np.uint16
    x = torch.from_numpy(rows.view(np.int16)).view(torch.bfloat16) if narrow else torch.from_numpy(rows)
    left_out = np.isin(np.arange(responses.start, responses.stop), rejected)
    usable = torch.from_numpy(np.repeat(~left_out, lengths))
    return UnitActivations(x if usable.all() else x.masked_fill(~usable.unsqueeze(1), 0), usable)


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
    names: Mapping[int, str],
    config: EncodeConfig | ExtractConfig,
    note: Note,
    sample: Callable[[int], Float[Tensor, "tokens d_in"]],
) -> tuple[dict[int, SparseAutoencoder], dict[int, SAEQuality]]:
    """Load the SAE of each layer and measure it on a sample of the activations.

    Args:
        names: layer to SAE.
        config: the options.
        note: told what came out.
        sample: gives residual vectors of a layer.

    Raises:
        IncompatibleError: its weights are broken, or do not fit the activations.
        ResourceError: the device is not there.

    """
    device = choose_device(config.device)
    saes, samples = {}, {}
    for layer, name in names.items():
        sae = load_sae(
            name, device=device, allow_pickle=config.allow_pickle, allow_mismatch=config.allow_mismatch
        )
        x = sample(layer)
        step = max(1, len(x) // SAMPLE_ROWS)
        quality = check_sample(sae, x[::step][:SAMPLE_ROWS], allow_mismatch=config.allow_mismatch)
        note(
            f"layer {layer}: {sae.metadata.architecture} SAE, {sae.d_sae:,} latents; on {quality.tokens:,}"
            f" tokens it explains {quality.explained_variance:.3f} of the variance, L0 {quality.l0:.1f}"
        )
        saes[layer], samples[layer] = sae, quality
    return saes, samples
