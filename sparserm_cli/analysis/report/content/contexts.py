"""Where in the captured text a latent fires: the responses on which it does so most and least strongly.

Reads: `features.zarr`, and token ids of `activations.zarr`. Memory: one unit of features and `TOP` contexts
at either end of each wanted latent. Axes: rows (response tokens of a unit), entries (latents that fire).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int64

from sparserm_cli.config import Progress
from sparserm_cli.store.features.reader import FeatureBlock, FeaturesReader

TOP = 3


BEFORE, AFTER = 14, 6
"""Tokens shown before and after the one on which the latent fires most."""


class Context(NamedTuple):
    """A stretch of one response.

    Fields:
        response: its number.
        peak: the token of the response on which the latent fires most.
        value: of the latent there.
        start: first token shown.
        values: of the latent on each token shown.
    """

    response: int
    peak: int
    value: float
    start: int
    values: tuple[float, ...]


class Contexts(NamedTuple):
    """Where one latent fires; at most one stretch a response.

    Fields:
        strongest: where it fires most, the most first.
        weakest: where it fires, but least, the least first.
    """

    strongest: tuple[Context, ...] = ()
    weakest: tuple[Context, ...] = ()


def feature_contexts(
    features: FeaturesReader, layer: int, wanted: Sequence[int], progress: Progress
) -> list[Contexts]:
    """Find the contexts of some latents in one pass over a layer.

    Args:
        features: the encoding.
        layer: one of its layers.
        wanted: latents, each once.
        progress: called with units done and units in all.

    Returns:
        one for each of `wanted`, in that order.

    Raises:
        CorruptStoreError: a part is damaged; names the unit.
        UsageError: the layer was not encoded.

    """
    slots = np.full(features.plan.sae(layer).d_sae, -1, np.int64)
    slots[list(wanted)] = np.arange(len(wanted))
    found = [Contexts() for _ in wanted]
    for done, block in enumerate(features.iter_blocks(layer), start=1):
        fired = _Fired.of(block, slots, len(wanted))
        for slot, so_far in enumerate(found):
            strong, weak = fired.contexts(slot)
            found[slot] = Contexts(
                tuple(sorted((*so_far.strongest, *strong), key=lambda one: (-one.value, one.response))[:TOP]),
                tuple(sorted((*so_far.weakest, *weak), key=lambda one: (one.value, one.response))[:TOP]),
            )
        progress(done, len(features.units))
    return found


class _Fired(NamedTuple):
    """The wanted latents' entries of one unit, latent by latent.

    Fields:
        bounds: where each latent's entries begin, and the end.
        rows: the token of each entry, rising within a latent.
        values: of each entry.
        first: the unit's first response.
        starts: first token of each of its responses, and the end.
    """

    bounds: Int64[np.ndarray, " bounds"]
    rows: Int64[np.ndarray, " entries"]
    values: Float32[np.ndarray, " entries"]
    first: int
    starts: Int64[np.ndarray, " starts"]

    @classmethod
    def of(cls, block: FeatureBlock, slots: Int64[np.ndarray, " d_sae"], wanted: int) -> "_Fired":
        """Take the entries of the wanted latents out of a unit."""
        slot = slots[block.csr.indices]
        kept = np.flatnonzero(slot >= 0)
        rows = np.searchsorted(block.csr.indptr, kept, side="right") - 1
        order = np.argsort(slot[kept], kind="stable")
        bounds = np.searchsorted(slot[kept][order], np.arange(wanted + 1))
        starts = np.concatenate([[0], np.cumsum(block.lengths, dtype=np.int64)])
        return cls(bounds, rows[order], block.csr.data[kept][order], block.responses.start, starts)

    def contexts(self, slot: int) -> tuple[list[Context], list[Context]]:
        """Return this unit's strongest and weakest contexts of a latent."""
        span = slice(int(self.bounds[slot]), int(self.bounds[slot + 1]))
        rows, values = self.rows[span], self.values[span]
        if not len(rows):
            return [], []
        response = np.searchsorted(self.starts, rows, side="right") - 1
        begins = np.flatnonzero(np.diff(response, prepend=-1))
        peaks = np.maximum.reduceat(values, begins)
        ends = np.append(begins[1:], len(rows))

        def stretch(one: int) -> Context:
            return self._context(
                rows, values, int(response[begins[one]]), slice(int(begins[one]), int(ends[one]))
            )

        strong, weak = (np.argsort(order, kind="stable")[:TOP].tolist() for order in (-peaks, peaks))
        return [stretch(one) for one in strong], [stretch(one) for one in weak]

    def _context(
        self, rows: Int64[np.ndarray, " n"], values: Float32[np.ndarray, " n"], response: int, part: slice
    ) -> Context:
        """Return the stretch around the highest of a response's entries, which are `part` of all."""
        at = int(part.start + np.argmax(values[part]))
        begin, end = int(self.starts[response]), int(self.starts[response + 1])
        low, high = max(begin, int(rows[at]) - BEFORE), min(end, int(rows[at]) + AFTER + 1)
        shown = np.zeros(high - low)
        inside = slice(*np.searchsorted(rows, [low, high]))
        shown[rows[inside] - low] = values[inside]
        peak, values_shown = int(rows[at]) - begin, tuple(shown.tolist())
        return Context(self.first + response, peak, float(values[at]), low - begin, values_shown)
