"""Activations to latents in compressed sparse rows, at about the price of the matrix product.

Rows go through the encoder in tiles of a fixed height, the last one padded, because a product's last bits
depend on its shape: so a row's latents are the same to the bit whatever the number of rows in the call. The
pre-activations of a tile stay in the processor's cache while they are made sparse.
Axes: rows (tokens), d_in (width of the residual stream), d_sae (latents), k (latents active on a row).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from sparserm_cli.models.backbone import choose_dtype
from sparserm_cli.models.sae import SparseAutoencoder

TILE_NUMBERS = {"cpu": 1 << 22, "cuda": 1 << 26}
"""Pre-activations in a tile, at most: what fits into a processor's cache, or fills a GPU."""
LOWEST_TILE = 256
"""Rows that a tile has at least, so that reading the weights does not dominate."""
WORD = 8
"""Latents looked at together when most are zero: the bytes of one 64-bit number."""


class Encoded(NamedTuple):
    """Latents of some rows in compressed sparse rows.

    Fields:
        data: values, all above zero.
        indices: their latents, ascending within a row.
        counts: number of values of each row.
    """

    data: Float32[Tensor, " values"]
    indices: Int64[Tensor, " values"]
    counts: Int64[Tensor, " rows"]


def tile_rows(d_sae: int, device: str = "cpu") -> int:
    """Return the height of a tile: a power of two from 256 to 8,192 that depends on nothing but these two."""
    numbers = TILE_NUMBERS.get(torch.device(device).type, TILE_NUMBERS["cuda"])
    return min(8192, max(LOWEST_TILE, 1 << (numbers // d_sae).bit_length() - 1))


class SparseEncoder:
    """Encodes rows with one SAE.

    Args:
        sae: on the device where the work is to be done.

    """

    def __init__(self, sae: SparseAutoencoder) -> None:
        self.sae, self.device = sae, str(sae.W_enc.device)
        self.tile = tile_rows(sae.d_sae, self.device)
        self._pre = torch.empty(self.tile, sae.d_sae, device=self.device)
        self._floor = (
            torch.zeros((), device=self.device) if sae.threshold is None else sae.threshold.clamp(min=0)
        )
        self._groups = _group_size(sae.d_sae, sae.k) if sae.k is not None else 1
        # Where x and W_enc are bfloat16 numbers, multiplying them as such and adding in float32 is exact.
        exact = bool((sae.W_enc == sae.W_enc.bfloat16()).all()) and sae.normalization == "none"
        fast = (
            torch.device(self.device).type == "cpu" and choose_dtype("auto", self.device)[0] is torch.bfloat16
        )
        self._narrow = exact and fast

    @torch.no_grad()
    def encode(self, x: Float[Tensor, "rows d_in"]) -> Encoded:
        """Return the latents of raw activations.

        A call must begin at a multiple of `tile` rows from where the caller counts, if its results are to be
        equal to the bit to those of other calls. Of equal pre-activations at a topk SAE's k-th place
        those of lower index are active.

        Args:
            x: bfloat16 or float32, on any device.

        """
        with _bfloat16_products(enabled=self._narrow and x.dtype is torch.bfloat16):
            parts = [self._tile(x[start : start + self.tile]) for start in range(0, len(x), self.tile)]
        if not parts:
            none = torch.empty(0, dtype=torch.int64, device=self.device)
            return Encoded(torch.empty(0, device=self.device), none, none)
        return Encoded(*(torch.cat(columns) for columns in zip(*parts, strict=True)))

    def _tile(self, x: Float[Tensor, "rows d_in"]) -> Encoded:
        rows = x.to(self.device, torch.float32)
        if len(rows) < self.tile:
            rows = torch.cat([rows, rows.new_zeros(self.tile - len(rows), rows.shape[1])])
        pre = torch.addmm(self.sae.b_enc, self.sae.normalise(rows), self.sae.W_enc, out=self._pre)[: len(x)]
        return self._topk(pre, self.sae.k) if self.sae.k is not None else self._above(pre)

    def _above(self, pre: Float32[Tensor, "rows d_sae"]) -> Encoded:
        """Keep what is above the floor (relu, jumprelu) and, of a gated SAE, has a magnitude."""
        flat = _true_places(pre > self._floor)
        data, indices = pre.view(-1)[flat], flat % self.sae.d_sae
        row = flat.div_(self.sae.d_sae, rounding_mode="floor")
        if self.sae.magnitude_scale is not None and self.sae.magnitude_shift is not None:
            data = data * self.sae.magnitude_scale[indices] + self.sae.magnitude_shift[indices]
            data, indices, row = data[data > 0], indices[data > 0], row[data > 0]
        return Encoded(data, indices, torch.bincount(row, minlength=len(pre)))

    def _topk(self, pre: Float32[Tensor, "rows d_sae"], k: int) -> Encoded:
        """Keep the k largest of each row, as far as they are above zero.

        The row is cut into groups. The k largest numbers lie in the k groups with the largest maxima, so only
        those groups' numbers are searched, unless equal numbers leave a choice.
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
    """Return how many latents a group has: the divisor of d_sae that leaves the fewest numbers to search."""
    sizes = [size for size in range(1, 65) if d_sae % size == 0 and d_sae // size >= k]
    return min(sizes, key=lambda size: d_sae // size + k * size)


def _true_places(mask: Bool[Tensor, "rows d_sae"]) -> Int64[Tensor, " true"]:
    """Return the places of the true entries in row-major order, faster than `nonzero` where they are few."""
    flat = mask.view(-1)
    if len(flat) % WORD:
        return flat.nonzero().view(-1)
    words = flat.view(torch.int64).nonzero().view(-1)
    inner = flat.view(-1, WORD)[words].nonzero()
    return words[inner[:, 0]] * WORD + inner[:, 1]


@contextmanager
def _bfloat16_products(*, enabled: bool) -> Iterator[None]:
    """Let the processor multiply float32 matrices as bfloat16 inside the block, still adding in float32."""
    if not enabled:
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
