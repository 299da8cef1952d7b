"""The encoding's writer and reader, and the CSR parts they consist of."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import captures
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy import sparse

from sparserm_cli.errors import CorruptStoreError, IncompatibleError, UsageError
from sparserm_cli.store.arrays.checked_zarr import SafeStore
from sparserm_cli.store.arrays.csr import Csr, check_csr, index_type, read_csr, write_csr
from sparserm_cli.store.capture.reader import ActivationsReader
from sparserm_cli.store.features.plan import plan_features
from sparserm_cli.store.features.reader import FeaturesReader
from sparserm_cli.store.features.writer import FeaturesWriter


def csr(data: list[float], indices: list[int], indptr: list[int], d_sae: int = 6) -> Csr:
    """Make a matrix."""
    return Csr(np.array(data, np.float32), np.array(indices, index_type(d_sae)), np.array(indptr, np.int64))


@hypothesis_settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    rows=st.lists(st.sets(st.integers(0, 69_999), max_size=5), max_size=6),
    d_sae=st.sampled_from([65_536, 65_537, 70_000]),
)
def test_a_matrix_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[set[int]], d_sae: int
):
    """Any matrix, empty ones included, twice over itself; u16 columns up to 65,536 latents."""
    columns = [sorted(column % d_sae for column in row) for row in rows]
    columns = [sorted(set(row)) for row in columns]
    flat = [column for row in columns for column in row]
    matrix = csr([column + 0.5 for column in flat], flat, np.cumsum([0, *map(len, columns)]).tolist(), d_sae)
    check_csr(matrix, len(rows), d_sae)
    store = SafeStore(tmp_path_factory.mktemp("csr"))
    first = [(path, (store.root / path).read_bytes()) for path in write_csr(store, "p/00000", matrix, d_sae)]
    again = [(path, (store.root / path).read_bytes()) for path in write_csr(store, "p/00000", matrix, d_sae)]
    assert first == again
    read = read_csr(SafeStore(store.root, read_only=True), "p/00000", 0, len(rows))
    for ours, theirs in zip(matrix, read, strict=True):
        assert ours.dtype == theirs.dtype
        assert np.array_equal(ours, theirs)
    assert read.indices.dtype == (np.uint16 if d_sae == 65_536 else np.uint32)


@pytest.mark.parametrize(
    ("matrix", "text"),
    [
        (csr([1], [0], [0, 1]), "does not bound 2 rows"),
        (csr([1], [0], [1, 1, 1]), "does not bound 2 rows"),
        (csr([1, 1], [0, 1], [0, 2, 1]), "does not bound 2 rows"),
        (csr([1], [0], [0, 1, 2]), "values"),
        (csr([1, 1], [0, 6], [0, 1, 2]), "column 6 of 6"),
        (csr([1, 1], [1, 1], [0, 2, 2]), "do not rise"),
        (csr([1, 1], [2, 1], [0, 0, 2]), "do not rise"),
        (csr([1, 0], [1, 2], [0, 1, 2]), "not above 0"),
        (csr([1, np.nan], [1, 2], [0, 1, 2]), "not above 0"),
        (csr([1, np.inf], [1, 2], [0, 1, 2]), "not above 0"),
        (csr([1, 1], [1, 2], [0, 1, 2], d_sae=70_000), "types"),
    ],
)
def test_what_is_no_matrix_is_refused(matrix: Csr, text: str):
    """Two rows of six latents: each way to be wrong."""
    with pytest.raises(ValueError, match=text):
        check_csr(matrix, 2, 6)


def test_columns_may_fall_between_rows():
    """Rising is asked of one row only; empty rows at either end are rows."""
    check_csr(csr([1, 1, 1], [4, 5, 0], [0, 0, 2, 2, 3, 3]), 5, 6)


def test_what_is_encoded_is_read(tmp_path: Path):
    """Every latent of every token at both layers, and the same matrix as scipy has it."""
    root, features = captures.encoding(tmp_path)
    capture, reader = ActivationsReader(root), FeaturesReader(features)
    for sae in captures.SAES:
        blocks = list(reader.iter_blocks(sae.layer))
        assert [block.responses for block in blocks] == [range(4), range(4, 6), range(6, 8)]
        for block in blocks:
            ids = np.concatenate([capture.token_ids(i) for i in block.responses])
            expected = captures.latents(sae, ids)
            assert all(np.array_equal(a, b) for a, b in zip(block.csr, expected, strict=True))
            matrix = sparse.csr_array(tuple(block.csr), shape=(len(ids), sae.d_sae))
            row = int(np.flatnonzero(ids % 3 == 2)[0]) if (ids % 3 == 2).any() else 0
            assert matrix[[row]].sum() == sum(ids[row] + n for n in range(ids[row] % 3))
    assert reader.plan.saes == captures.SAES
    assert reader.rows.response_length.tolist() == capture.response_lengths.tolist()
    assert reader.pairs().chosen.tolist() == capture.pairs().chosen.tolist()


def test_only_counts_leaves_the_values_unread(tmp_path: Path):
    """Values damaged or gone after the open do not matter; columns and bounds are as ever."""
    reader = FeaturesReader(captures.encoding(tmp_path)[1])
    whole = list(reader.iter_blocks(1))
    for path in (tmp_path / "features.zarr").rglob("data"):
        shutil.rmtree(path)
    for before, block in zip(whole, reader.iter_blocks(1, only_counts=True), strict=True):
        assert np.array_equal(block.csr.indices, before.csr.indices)
        assert np.array_equal(block.csr.indptr, before.csr.indptr)
        assert block.csr.data.tolist() == [1.0] * len(before.csr.data)
    with pytest.raises(CorruptStoreError, match=r"layers/1/parts/00000/data"):
        next(reader.iter_blocks(1))


def test_a_layer_not_encoded_is_usage(tmp_path: Path):
    """Exit 2 lists the layers there are."""
    reader = FeaturesReader(captures.encoding(tmp_path)[1])
    with pytest.raises(UsageError, match="--layer: expected one of 1, 2, found 5"):
        next(reader.iter_blocks(5))


def test_row_33_an_sae_of_another_width_is_refused_before_the_work(tmp_path: Path):
    """Exit 4 names the SAE and both widths."""
    capture = ActivationsReader(captures.capture(tmp_path / "a"))
    wide = replace(captures.SAES[0], d_in=4)
    with pytest.raises(IncompatibleError, match="sae-a: d_in: expected 3, found 4"):
        plan_features(tmp_path / "f", capture, [wide])
    with pytest.raises(UsageError, match="expected one of 1, 2, found 7"):
        plan_features(tmp_path / "f", capture, [replace(captures.SAES[0], layer=7)])
    assert not (tmp_path / "f").exists()


def test_pooled_captures_cannot_be_encoded(tmp_path: Path):
    """Latents are of tokens; exit 2 says how to get them."""
    capture = ActivationsReader(captures.capture(tmp_path / "a", positions="pooled"))
    with pytest.raises(UsageError, match="--positions response --force"):
        plan_features(tmp_path / "f", capture, captures.SAES)


@pytest.mark.parametrize(
    "change",
    [
        {"model_revision": "sha256:1"},
        {"tokenizer": "t1"},
        {"template": "other"},
        {"layers": (1, 3), "hook_names": ("blocks.1.hook_resid_post", "blocks.3.hook_resid_post")},
        {"hook_names": ("blocks.1.hook_resid_post", "blocks.2.hook_mlp_out")},
        {"dtype": "float32"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_row_36_features_of_another_capture_name_the_field(tmp_path: Path, change: dict):
    """Recaptured with one setting changed: exit 4 says which, with both values."""
    root, features = captures.encoding(tmp_path / "one")
    FeaturesReader(features).check_parent(ActivationsReader(root).lineage.as_parent())
    other = ActivationsReader(captures.capture(tmp_path / "other", **change)).lineage.as_parent()
    with pytest.raises(IncompatibleError, match=rf"\(from activations\): {next(iter(change))}: expected "):
        FeaturesReader(features).check_parent(other)


def test_shared_and_serial_encodings_have_one_digest(tmp_path: Path):
    """Two workers in turn, and one alone."""
    root, features = captures.encoding(tmp_path)
    assert captures.encode(tmp_path / "two", root, rank=1, world=2) is None
    assert captures.encode(tmp_path / "two", root, rank=0, world=2).digest == FeaturesReader(features).digest


def test_a_writer_refuses_what_does_not_fit(tmp_path: Path):
    """Layers missing, or a matrix of another number of tokens."""
    root = captures.capture(tmp_path / "a")
    plan_features(tmp_path / "f", ActivationsReader(root), captures.SAES)
    writer = FeaturesWriter(tmp_path / "f")
    good = csr([], [], [0, 0, 0])
    with pytest.raises(ValueError, match=r"layers \(1,\) instead of \(1, 2\)"):
        writer.write_unit(2, {1: good}, captures.FACTS)
    with pytest.raises(ValueError, match="types"):
        writer.write_unit(2, {1: good, 2: good}, captures.FACTS)
    with pytest.raises(ValueError, match="does not bound 9 rows"):
        writer.write_unit(1, {1: good, 2: csr([], [], [0, 0, 0], 70_000)}, captures.FACTS)
    assert writer.parent == ActivationsReader(root).lineage.as_parent()
