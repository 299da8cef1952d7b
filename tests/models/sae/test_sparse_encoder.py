"""Sparse encoding equals the dense formula, to the bit whatever the number of rows in a call."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from helpers import sae_files
from hypothesis import given, settings
from hypothesis import strategies as st

from sparserm_cli.models.sae import sparse_encoder
from sparserm_cli.models.sae.autoencoder import SparseAutoencoder
from sparserm_cli.models.sae.sparse_encoder import Encoded, SparseEncoder, tile_rows

random_sae, metadata = sae_files.random_sae, sae_files.metadata
KINDS = ("standard", "topk", "jumprelu", "gated")


def dense(encoded: Encoded, d_sae: int) -> torch.Tensor:
    """Return CSR rows densely."""
    out = torch.zeros(len(encoded.counts), d_sae)
    rows = torch.arange(len(encoded.counts)).repeat_interleave(encoded.counts)
    out[rows, encoded.indices] = encoded.data
    return out


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make tiles of 16 rows, so that tests cross their borders with little work."""
    monkeypatch.setattr(sparse_encoder, "LOWEST_TILE", 16)
    monkeypatch.setitem(sparse_encoder.TILE_NUMBERS, "cpu", 16 * 96)


@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_dense_formula(kind: str) -> None:
    """Same latents fire with the same values as `encode` gives, over several tiles and an incomplete one."""
    sae: SparseAutoencoder = random_sae(kind)
    x = torch.randn(71, 12, generator=torch.Generator().manual_seed(1))
    encoded = SparseEncoder(sae).encode(x)
    expected = sae.encode(x)
    assert torch.equal(dense(encoded, 96) > 0, expected > 0)
    torch.testing.assert_close(dense(encoded, 96), expected, rtol=1e-5, atol=1e-6)
    assert 0 < len(encoded.data) < 71 * 48


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("narrow", [False, True])
def test_bits_do_not_depend_on_the_rows_of_a_call(kind: str, narrow: bool) -> None:
    """One call, calls of one tile and of three tiles give the same bits, also for bfloat16 activations."""
    encoder = SparseEncoder(random_sae(kind))
    x = torch.randn(100, 12, generator=torch.Generator().manual_seed(2))
    x = x.bfloat16() if narrow else x
    whole = encoder.encode(x)
    for step in (16, 48):
        parts = [encoder.encode(x[start : start + step]) for start in range(0, 100, step)]
        for column, expected in zip(zip(*parts, strict=True), whole, strict=True):
            assert torch.equal(torch.cat(column), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_bits_do_not_depend_on_the_number_of_threads(kind: str) -> None:
    """One, two and three threads give the same bits, and torch's own number of threads stays."""
    x, before = torch.randn(100, 12, generator=torch.Generator().manual_seed(4)), torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(SparseEncoder(random_sae(kind)).encode(x))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(results[0], other, strict=True))


def test_bfloat16_products_are_exact_where_both_sides_are_bfloat16() -> None:
    """With bfloat16 activations and weights the result is that of float32 products, not of rounded ones."""
    sae = random_sae("jumprelu")
    exact = SparseAutoencoder(**{**vars(sae), "W_enc": sae.W_enc.bfloat16().float()})
    x = torch.randn(64, 12, generator=torch.Generator().manual_seed(3)).bfloat16()
    encoded = dense(SparseEncoder(exact).encode(x), 96)
    reference = exact.activate((x.double() @ exact.W_enc.double() + exact.b_enc.double()).float())
    torch.testing.assert_close(encoded, reference, rtol=1e-6, atol=1e-6)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 40),
    st.integers(1, 30).map(lambda half: 2 * half),
    st.integers(0, 2**31),
    st.data(),
)
def test_topk_is_exact_with_any_number_of_ties(rows: int, d_sae: int, seed: int, data: st.DataObject) -> None:
    """The k largest fire, of equal ones those of lower index, as a stable sort says, with many ties."""
    k = data.draw(st.integers(1, d_sae))
    pre = torch.randint(-3, 4, (rows, d_sae), generator=torch.Generator().manual_seed(seed)).float()
    zero = torch.zeros(1, d_sae)
    sae = SparseAutoencoder(
        metadata("topk", 1, d_sae), "xxh3:0", zero, zero[0], zero.T.contiguous(), torch.zeros(1), k=k
    )
    kept = dense(SparseEncoder(sae)._topk(pre, k), d_sae)
    order = np.argsort(-pre.numpy(), axis=1, kind="stable")[:, :k]
    expected = np.zeros_like(pre.numpy())
    np.put_along_axis(expected, order, np.maximum(np.take_along_axis(pre.numpy(), order, axis=1), 0), axis=1)
    assert np.array_equal(kept.numpy(), expected)


def test_indices_ascend_and_values_are_positive() -> None:
    """A row's indices rise strictly and nothing at or below zero is stored."""
    for kind in KINDS:
        encoded = SparseEncoder(random_sae(kind)).encode(torch.randn(40, 12))
        assert (encoded.data > 0).all()
        starts = torch.cat([torch.zeros(1, dtype=torch.int64), encoded.counts.cumsum(0)])
        for start, end in pairwise(starts.tolist()):
            assert (encoded.indices[start:end].diff() > 0).all()


def test_no_rows_give_an_empty_matrix() -> None:
    """Nothing in, nothing out."""
    encoded = SparseEncoder(random_sae("topk")).encode(torch.zeros(0, 12))
    assert [len(column) for column in encoded] == [0, 0, 0]


def test_odd_widths_take_the_plain_way() -> None:
    """A number of latents that 8 does not divide is encoded all the same."""
    for kind in KINDS:
        sae = random_sae(kind, d_sae=91)
        x = torch.randn(20, 12)
        assert torch.equal(dense(SparseEncoder(sae).encode(x), 91) > 0, sae.encode(x) > 0)


def test_tile_depends_on_width_and_device_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """4,608 latents on a processor: tiles of 512 rows; a wide SAE has low ones, but not lower than 256."""
    monkeypatch.setattr(sparse_encoder, "LOWEST_TILE", 256)
    monkeypatch.setitem(sparse_encoder.TILE_NUMBERS, "cpu", 1 << 22)
    assert tile_rows(4608) == 512
    assert tile_rows(131072) == 256
    assert tile_rows(64) == 8192
    assert tile_rows(16384, "cuda") == 4096
