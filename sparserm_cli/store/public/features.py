"""Read an encoding in a notebook: SAE latents as `scipy.sparse` rows, one per token or one per response.

    features = open_features("sparserm-run")
    features.tokens(14, 3)              # response 3: csr_array of shape (tokens, d_sae)
    features.pooled(14, "max")          # csr_array of shape (responses, d_sae)

Memory: `tokens` and `iter_tokens` hold one unit; `matrix`, `pooled` and `entries` hold all that they return.
"""

from collections.abc import Iterator
from pathlib import PurePath

import numpy as np
from jaxtyping import Int64
from scipy import sparse

from sparserm_cli.errors import UsageError
from sparserm_cli.locations import parse_location
from sparserm_cli.store.capture.rows import check_response
from sparserm_cli.store.features.artifact import features_path
from sparserm_cli.store.features.reader import FeatureBlock, FeaturesReader
from sparserm_cli.store.public.table import Table

POOLINGS = ("mean", "max", "count")


def open_features(run: str | PurePath) -> "Features":
    """Open the SAE latents of a run directory for reading.

    Args:
        run: the run directory, or its URL on an object store.

    Raises:
        IncompatibleError: there is no encoding, it is not complete, or it is newer than this program.
        CorruptStoreError: a file is missing, empty, truncated, or of another plan; the error names the unit.

    """
    return Features(FeaturesReader(features_path(parse_location(run))))


class Features:
    """The SAE latents that fire on each response token; responses are numbered as in the capture.

    Args:
        reader: reader of the opened encoding.

    """

    def __init__(self, reader: FeaturesReader) -> None:
        self._reader = reader
        self._last_read: tuple[int, FeatureBlock] | None = None
        self.layers: tuple[int, ...] = reader.plan.layers
        """Blocks, counted from 0, whose activations were encoded."""

    def __len__(self) -> int:
        """Return the number of responses."""
        return self._reader.plan.layout.responses

    def __repr__(self) -> str:
        saes = ", ".join(f"layer {sae.layer} by {sae.name} ({sae.d_sae:,})" for sae in self._reader.plan.saes)
        return f"Features of {len(self):,} responses: {saes}"

    def d_sae(self, layer: int) -> int:
        """Return the number of latents of a layer's SAE; raises UsageError unless it was encoded."""
        return self._reader.plan.sae(layer).d_sae

    @property
    def offsets(self) -> Int64[np.ndarray, " offsets"]:
        """First row of each response in `matrix`, then the number of rows: responses + 1 numbers."""
        return self._reader.rows.response_offset

    def tokens(self, layer: int, response: int) -> sparse.csr_array:
        """Return the latents on the tokens of one response, shape (tokens, d_sae).

        Responses in increasing order read every unit once. In any other order each may read a whole unit.

        Args:
            layer: one of `layers`.
            response: number of the response, from 0.

        Raises:
            UsageError: the layer was not encoded, or there is no such response.
            CorruptStoreError: a part is damaged; names the unit.

        """
        check_response(response, self._reader.plan.layout)
        unit = self._reader.rows.unit_of(response)
        if self._last_read is None or (self._last_read[0], self._last_read[1].unit) != (layer, unit):
            self._last_read = None  # the old unit is dropped before the new one is read
            self._last_read = layer, self._reader.block(layer, unit)
        block = self._last_read[1]
        start = int(block.lengths[: response - block.responses.start].sum())
        stop = start + int(block.lengths[response - block.responses.start])
        return self._csr(layer, block, start, stop)

    def iter_tokens(self, layer: int) -> Iterator[tuple[int, sparse.csr_array]]:
        """Yield the number and the latents of each response; errors are those of `tokens`."""
        for response in range(len(self)):
            yield response, self.tokens(layer, response)

    def matrix(self, layer: int) -> sparse.csr_array:
        """Return the latents on all response tokens, shape (tokens of all responses, d_sae).

        The rows of response i are `offsets[i]` to `offsets[i + 1]`; errors are those of `tokens`.
        """
        blocks = self._reader.iter_blocks(layer)
        return _stacked([self._csr(layer, block, 0, len(block.csr.indptr) - 1) for block in blocks])

    def pooled(self, layer: int, pooling: str = "mean") -> sparse.csr_array:
        """Return one row per response, shape (responses, d_sae): row i belongs to response i.

        Args:
            layer: one of `layers`.
            pooling: `mean` or `max` of each latent over the response's tokens, or the `count` of tokens on
                which it fires.

        Raises:
            UsageError: the layer was not encoded, or there is no such pooling.
            CorruptStoreError: a part is damaged; names the unit.

        """
        if pooling not in POOLINGS:
            raise UsageError("pooling", " or ".join(POOLINGS), repr(pooling), "choose one")
        return _stacked(
            [_pooled(block, self.d_sae(layer), pooling) for block in self._reader.iter_blocks(layer)]
        )

    def entries(self, layer: int) -> Table:
        """Return one row per latent that fires on a token: `response`, `token`, `feature`, `value`.

        `token` is the position in the response, from 0; errors are those of `tokens`.
        """
        matrix = self.matrix(layer).tocoo()
        response = np.searchsorted(self.offsets, matrix.row, side="right") - 1
        token = matrix.row - self.offsets[response]
        columns = {"response": response, "token": token, "feature": matrix.col, "value": matrix.data}
        return Table.of(columns)

    def _csr(self, layer: int, block: FeatureBlock, start: int, stop: int) -> sparse.csr_array:
        """Return some token rows of a unit as a matrix of its own."""
        bounds = block.csr.indptr[start : stop + 1]
        part = slice(int(bounds[0]), int(bounds[-1]))
        parts = (block.csr.data[part].copy(), block.csr.indices[part].astype(np.int64), bounds - bounds[0])
        return sparse.csr_array(parts, shape=(stop - start, self.d_sae(layer)))


def _stacked(parts: list[sparse.csr_array]) -> sparse.csr_array:
    """Stack matrices vertically."""
    return sparse.csr_array(sparse.vstack(parts, format="csr"))


def _pooled(block: FeatureBlock, d_sae: int, pooling: str) -> sparse.csr_array:
    """Pool the latents of one unit over the tokens of each response."""
    response_of = np.repeat(np.arange(len(block.lengths)), block.lengths)
    row = np.repeat(response_of, np.diff(block.csr.indptr))
    column = block.csr.indices.astype(np.int64)
    order = np.lexsort((column, row))
    row, column, data = row[order], column[order], block.csr.data[order].astype(np.float64)
    first = np.flatnonzero((np.diff(row, prepend=-1) != 0) | (np.diff(column, prepend=-1) != 0))
    if pooling == "count":
        data = np.ones_like(data)
    combine = np.maximum if pooling == "max" else np.add
    pooled = combine.reduceat(data, first) if len(first) else data
    if pooling == "mean":
        pooled = pooled / block.lengths[row[first]]
    indptr = np.searchsorted(row[first], np.arange(len(block.lengths) + 1))
    shape = (len(block.lengths), d_sae)
    return sparse.csr_array((pooled.astype(np.float32), column[first], indptr.astype(np.int64)), shape=shape)
