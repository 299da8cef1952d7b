"""Which latents fire on what is counted: tokens, responses, or one vector per response.

The paper speaks of one hidden state per response. That of the last token is among the features; the mean of
all tokens is encoded by the SAE that made them.

Memory: the latents of one unit; for means the SAE as well.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, Integer

from sparserm_cli.stages.frequency.counted_responses import CountedResponses
from sparserm_cli.store.artifacts.frequency import Unit
from sparserm_cli.store.capture.reader import ActivationsReader
from sparserm_cli.store.features.reader import FeatureBlock, FeaturesReader

ONE_VECTOR: tuple[Unit, ...] = ("last", "mean")
"""The units of one vector per response."""


class Fires(NamedTuple):
    """The latents that fire on the counted vectors of one unit."""

    unit: int
    """Number of the unit."""
    tokens: int
    """Number of response tokens of the unit."""
    indptr: Int64[np.ndarray, " bounds"]
    """Offset in `indices` at which each response's latents begin, and the end of the last response's."""
    indices: Integer[np.ndarray, " nonzeros"]
    """Latents, response by response."""


def iter_fires(
    capture: ActivationsReader, features: FeaturesReader, layer: int, unit: Unit
) -> Iterator[Fires]:
    """Yield what fires on the vectors that are counted, unit of work by unit of work.

    Raises:
        IncompatibleError: the SAE that encodes the means is not the one that made the features.
        CorruptStoreError: features or activations are damaged.

    """
    if unit == "mean":
        from sparserm_cli.stages.frequency.mean_vectors import encoded_means, loaded_encoder  # torch is slow

        encoder = loaded_encoder(features.plan.sae(layer))
        for number, (_, vectors) in zip(capture.units, capture.iter_pooled(layer, "mean"), strict=True):
            csr = encoded_means(encoder, vectors)
            yield Fires(number, int(capture.rows.lengths(number).sum()), csr.indptr, csr.indices)
        return
    for block in features.iter_blocks(layer, only_counts=True):
        ends = np.concatenate([[0], np.cumsum(block.lengths, dtype=np.int64)])
        tokens = int(block.lengths.sum())
        if unit == "last":
            yield Fires(block.unit, tokens, *last_tokens(block))
        else:
            yield Fires(block.unit, tokens, block.csr.indptr[ends], block.csr.indices)


def as_one_vector(counted: CountedResponses) -> CountedResponses:
    """Return responses that count as one token each; their classes of length stay."""
    return counted._replace(lengths=np.ones_like(counted.lengths))


def last_tokens(
    block: FeatureBlock,
) -> tuple[Int64[np.ndarray, " bounds"], Integer[np.ndarray, " nonzeros"]]:
    """Return the bounds and the latents of the last token of each response of a unit."""
    ends = np.cumsum(block.lengths, dtype=np.int64)
    begin, end = block.csr.indptr[ends - (block.lengths > 0)], block.csr.indptr[ends]
    kept = [block.csr.indices[first:last] for first, last in zip(begin, end, strict=True)]
    bounds = np.concatenate([[0], np.cumsum(end - begin, dtype=np.int64)])
    return bounds, np.concatenate([block.csr.indices[:0], *kept])
