"""Encode activations to latents in compressed sparse rows, at about the cost of the matrix product.

Rows go through the encoder in tiles of a fixed height, the last of which is padded. The last bits of a
product depend on its shape, so this makes the latents of a row the same to the bit for any number of rows
per call. The pre-activations of a tile stay in the processor's cache while they are made sparse.
Axes: rows (tokens), d_in (width of the residual stream), d_sae (latents), k (active latents per row).
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from sparserm_cli.models.lm.devices import choose_dtype
from sparserm_cli.models.sae.autoencoder import SparseAutoencoder

TILE_NUMBERS = {"cpu": 1 << 22, "cuda": 1 << 26}
"""Largest number of pre-activations per tile, which fits into a processor's cache or fills a GPU."""
LOWEST_TILE = 256
"""Smallest number of rows per tile, so that reading the weights does not dominate."""
TILES_BYTES = 1 << 30
"""Largest number of pre-activations of all threads together."""
WORD = 8
"""Number of latents that are tested together when most are zero: the bytes of one 64-bit number."""


class Encoded(NamedTuple):
    """Latents of some rows in compressed sparse rows.

    Fields:
        data: values, all of them above zero.
        indices: latent of each value, ascending within a row.
        counts: number of values per row.
    """

    data: Float32[Tensor, " values"]
    indices: Int64[Tensor, " values"]
    counts: Int64[Tensor, " rows"]


class Buffers(NamedTuple):
    """Memory of one thread for one tile.

    Fields:
        rows: the activations in float32; unused rows are zero.
        pre: the pre-activations.
        mask: which pre-activations are above the floor.
    """

    rows: Float32[Tensor, "tile d_in"]
    pre: Float32[Tensor, "tile d_sae"]
    mask: Bool[Tensor, "tile d_sae"]


class TilePool:
    """Threads that work on one tile each and use no further threads within their operations.

    Args:
        workers: number of threads; a single one is the caller's own.

    """

    def __init__(self, workers: int) -> None:
        self._inner = max(1, torch.get_num_threads() // workers)
        self._pool = ThreadPoolExecutor(workers, initializer=self._narrow) if workers > 1 else None

    def map(self, work: Callable[[Tensor], Encoded], tiles: Sequence[Tensor]) -> list[Encoded]:
        """Return the results of all tiles, in their order."""
        if self._pool is None:
            return [work(tile) for tile in tiles]
        return list(self._pool.map(work, tiles))

    @contextmanager
    def one_thread_each(self) -> Iterator[None]:
        """Run the caller's operations inside the block in one thread, since others would be waited for."""
        threads = torch.get_num_threads()
        if self._pool is not None:
            self._narrow()
        try:
            yield
        finally:
            # New threads begin with the setting of a worker, so the setting is restored in any case.
            torch.set_num_threads(threads)

    def _narrow(self) -> None:
        torch.set_num_threads(self._inner)


def tile_rows(d_sae: int, device: str = "cpu") -> int:
    """Return the height of a tile: a power of two from 256 to 8,192 that depends on these two alone."""
    numbers = TILE_NUMBERS.get(torch.device(device).type, TILE_NUMBERS["cuda"])
    return min(8192, max(LOWEST_TILE, 1 << (numbers // d_sae).bit_length() - 1))


class SparseEncoder:
    """Encodes rows with one SAE.

    On a CPU one thread computes a tile from the product to the sparse rows, so threads wait for each other
    once per call, and results do not depend on the number of threads.

    Args:
        sae: the SAE, on the device that does the work.

    """

    def __init__(self, sae: SparseAutoencoder) -> None:
        self.sae, self.device = sae, str(sae.W_enc.device)
        self.tile = tile_rows(sae.d_sae, self.device)
        floor = torch.zeros((), device=self.device) if sae.threshold is None else sae.threshold
        self._floor = floor.clamp(min=0)
        self._groups = _group_size(sae.d_sae, sae.k) if sae.k is not None else 1
        # Where x and W_enc are bfloat16 numbers, multiplying them as such and adding in float32 is exact.
        exact = bool((sae.W_enc == sae.W_enc.bfloat16()).all()) and sae.normalization == "none"
        on_cpu = torch.device(self.device).type == "cpu"
        self._narrow = exact and on_cpu and choose_dtype("auto", self.device)[0] is torch.bfloat16
        room = max(1, TILES_BYTES // (4 * self.tile * sae.d_sae))
        self._pool = TilePool(min(room, torch.get_num_threads()) if on_cpu else 1)
        self._local = threading.local()

    @torch.no_grad()
    def encode(self, x: Float[Tensor, "rows d_in"]) -> Encoded:
        """Return the latents of raw activations.

        Results are equal to the bit to those of other calls only if each call begins at a multiple of `tile`
        rows of the caller's data. Where pre-activations at the k-th place of a topk SAE are equal, the
        latents of lower index are active.

        Args:
            x: activations in bfloat16 or float32, on any device.

        """
        if not len(x):
            none = torch.empty(0, dtype=torch.int64, device=self.device)
            return Encoded(torch.empty(0, device=self.device), none, none)
        with (
            _bfloat16_products(enabled=self._narrow and x.dtype is torch.bfloat16),
            self._pool.one_thread_each(),
        ):
            parts = self._pool.map(self._tile, x.split(self.tile))
            return Encoded(*(torch.cat(columns) for columns in zip(*parts, strict=True)))

    @torch.no_grad()
    def _tile(self, x: Tensor) -> Encoded:
        """Encode at most one tile of rows in this thread's buffers."""
        held = self._held()
        held.rows[: len(x)] = x
        held.rows[len(x) :] = 0
        torch.addmm(self.sae.b_enc, self.sae.normalise(held.rows), self.sae.W_enc, out=held.pre)
        pre = held.pre[: len(x)]
        if self.sae.k is not None:
            return self._topk(pre, self.sae.k)
        return self._above(pre, torch.gt(pre, self._floor, out=held.mask[: len(x)]))

    def _held(self) -> "Buffers":
        """Return this thread's buffers, which are kept so that no tile allocates memory."""
        if not hasattr(self._local, "held"):
            shape = (self.tile, self.sae.d_sae)
            mask_shape = shape if self.sae.k is None else (0, 0)
            self._local.held = Buffers(
                torch.empty(self.tile, self.sae.d_in, device=self.device),
                torch.empty(shape, device=self.device),
                torch.empty(mask_shape, dtype=torch.bool, device=self.device),
            )
        return self._local.held

    def _above(self, pre: Float32[Tensor, "rows d_sae"], mask: Bool[Tensor, "rows d_sae"]) -> Encoded:
        """Keep the latents of the mask (relu, jumprelu); of a gated SAE, those that have a magnitude."""
        flat = _true_places(mask)
        data, indices = pre.view(-1)[flat], flat % self.sae.d_sae
        row = flat.div_(self.sae.d_sae, rounding_mode="floor")
        if self.sae.magnitude_scale is not None and self.sae.magnitude_shift is not None:
            data = data * self.sae.magnitude_scale[indices] + self.sae.magnitude_shift[indices]
            data, indices, row = data[data > 0], indices[data > 0], row[data > 0]
        return Encoded(data, indices, torch.bincount(row, minlength=len(pre)))

    def _topk(self, pre: Float32[Tensor, "rows d_sae"], k: int) -> Encoded:
        """Keep those of the k largest latents of each row that are above zero.

        A row is divided into groups. The k largest numbers lie in the k groups with the largest maxima, so
        only these groups are searched, unless equal numbers leave a choice.
        """
        size = self._groups
        grouped = pre.view(len(pre), size, -1)
        maxima = grouped.amax(dim=1)
        best = maxima.topk(k, dim=1, sorted=False)
        members = grouped.gather(2, best.indices.unsqueeze(1).expand(-1, size, -1))
        values, places = members.view(len(pre), -1).topk(k, dim=1, sorted=False)
        lowest = values.amin(dim=1, keepdim=True)
        indices = best.indices.gather(1, places % k) + (places // k) * maxima.shape[1]
        ties = ((members.view(len(pre), -1) >= lowest).sum(dim=1) > k) | (
            (maxima >= best.values.amin(dim=1, keepdim=True)).sum(dim=1) > k
        )
        if ties.any():
            indices[ties] = pre[ties].sort(dim=1, descending=True, stable=True).indices[:, :k]
        indices = indices.sort(dim=1).values
        values = pre.gather(1, indices)
        kept = values > 0
        return Encoded(values[kept], indices[kept], kept.sum(dim=1))


def _group_size(d_sae: int, k: int) -> int:
    """Return the number of latents per group, the divisor of d_sae with the fewest numbers to search."""
    sizes = [size for size in range(1, 65) if d_sae % size == 0 and d_sae // size >= k]
    return min(sizes, key=lambda size: d_sae // size + k * size)


def _true_places(mask: Bool[Tensor, "rows d_sae"]) -> Int64[Tensor, " true"]:
    """Return the places of the true entries in row-major order, faster than `nonzero` if they are few."""
    flat = mask.view(-1)
    if len(flat) % WORD:
        return flat.nonzero().view(-1)
    words = flat.view(torch.int64).nonzero().view(-1)
    inner = flat.view(-1, WORD)[words].nonzero()
    return words[inner[:, 0]] * WORD + inner[:, 1]


@contextmanager
def _bfloat16_products(*, enabled: bool) -> Iterator[None]:
    """Let the processor multiply float32 matrices as bfloat16 inside the block, with sums in float32."""
    if not enabled:
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
