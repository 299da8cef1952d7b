"""frequency.parquet: what is written is read, and damage or another version is refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparserm_cli.errors import CorruptStoreError, IncompatibleError
from sparserm_cli.store.frequency import (
    Frequency,
    Measures,
    Totals,
    frequency_path,
    read_frequency,
    write_frequency,
)
from sparserm_cli.store.lineage import Lineage, Parent


def measures(d_sae: int, seed: int = 0) -> Measures:
    """Make up measures; the store does not look at what they mean."""
    rng = np.random.default_rng(seed)
    sides = {name: rng.random((2, d_sae)) for name in ("rate", "low", "high")}
    plain = ("difference", "standardised", "length_controlled", "z", "q", "mcnemar", "mcnemar_q")
    return Measures(
        **sides,
        responses=rng.integers(0, 9, (2, d_sae)),
        fold_rate=rng.random((2, d_sae, 3)).astype(np.float32),
        **{name: rng.standard_normal(d_sae) for name in plain},
        mutual_information=rng.random(d_sae),
    )


def frequency(*sizes: int) -> Frequency:
    """Make up a table with one layer a size."""
    lineage = Lineage(
        "frequency", 1, {"unit": "token", "seed": 0}, {"features": Parent("ab", {"d_sae": list(sizes)})}
    )
    totals = Totals((100, 90), (12, 11), 14, 9, ((30, 30), (30, 30), (40, 30)))
    return Frequency(lineage, "token", totals, {4 + n: measures(size, n) for n, size in enumerate(sizes)})


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(1, 7), min_size=1, max_size=3))
def test_what_is_written_is_read(tmp_path: Path, sizes: list[int]):
    """Every column of every layer, to the bit, whatever the number of latents."""
    written = write_frequency(tmp_path, frequency(*sizes))
    read = read_frequency(tmp_path)
    assert read.lineage == written.lineage
    assert (read.unit, read.totals) == (written.unit, written.totals)
    assert list(read.layers) == list(written.layers)
    for layer, expected in written.layers.items():
        for name, found in read.layers[layer]._asdict().items():
            assert np.array_equal(found, getattr(expected, name)), name
            assert found.dtype == getattr(expected, name).dtype, name


def test_others_can_read_the_table(tmp_path: Path):
    """One row a latent with the documented columns, readable by any Parquet reader."""
    written = write_frequency(tmp_path, frequency(3, 2))
    table = pq.read_table(frequency_path(tmp_path))
    assert table.column("layer").to_pylist() == [4, 4, 4, 5, 5]
    assert table.column("feature").to_pylist() == [0, 1, 2, 0, 1]
    assert table.column("rate_rejected").to_pylist()[3:] == written.layers[5].rate[1].tolist()
    head = json.loads(table.schema.metadata[b"sparserm"])
    assert (head["type"], head["version"], head["unit"]) == ("frequency", 1, "token")


def test_the_digest_is_that_of_the_numbers(tmp_path: Path):
    """The same numbers give the same digest, another number another one; settings are not part of it."""
    first = write_frequency(tmp_path, frequency(3)).lineage.digest
    again = frequency(3)
    assert write_frequency(tmp_path, again).lineage.digest == first
    other = again.layers[4]._replace(z=again.layers[4].z + 1e-9)
    assert write_frequency(tmp_path, replace(again, layers={4: other})).lineage.digest != first


def test_no_file(tmp_path: Path):
    """The error says what to run."""
    with pytest.raises(IncompatibleError) as caught:
        read_frequency(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}/frequency.parquet: expected the table of frequencies, found no file; "
        "run `sparserm frequency` first"
    )


@pytest.mark.parametrize("cut", [0, 3, 200])
def test_row_12_cut_file(tmp_path: Path, cut: int):
    """An empty or cut file is corrupt, not a table with fewer latents."""
    write_frequency(tmp_path, frequency(30))
    path = frequency_path(tmp_path)
    path.write_bytes(path.read_bytes()[: cut and -cut])
    with pytest.raises(CorruptStoreError) as caught:
        read_frequency(tmp_path)
    assert "run `sparserm frequency` again" in str(caught.value)


def test_row_10_bit_flip_in_a_column(tmp_path: Path):
    """A flipped bit anywhere in the data is found."""
    write_frequency(tmp_path, frequency(300))
    path = frequency_path(tmp_path)
    whole = path.read_bytes()
    for place in (len(whole) // 4, len(whole) // 2):
        damaged = bytearray(whole)
        damaged[place] ^= 16
        path.write_bytes(damaged)
        with pytest.raises(CorruptStoreError):
            read_frequency(tmp_path)


def test_column_of_another_table_is_found_by_the_digest(tmp_path: Path):
    """A table rewritten by another program with one number changed is refused."""
    write_frequency(tmp_path, frequency(3))
    path = frequency_path(tmp_path)
    table = pq.read_table(path)
    place = table.schema.get_field_index("z")
    changed = table.set_column(place, "z", [[0.0, 0.0, 0.0]])
    pq.write_table(changed.replace_schema_metadata(table.schema.metadata), path)
    with pytest.raises(CorruptStoreError) as caught:
        read_frequency(tmp_path)
    assert "expected xxh3-128" in str(caught.value)


def test_missing_column(tmp_path: Path):
    """A table without a column is corrupt."""
    write_frequency(tmp_path, frequency(3))
    path = frequency_path(tmp_path)
    pq.write_table(pq.read_table(path).drop_columns(["mcnemar"]), path)
    with pytest.raises(CorruptStoreError) as caught:
        read_frequency(tmp_path)
    assert "the columns of format 1" in str(caught.value)


def test_row_37_newer_version(tmp_path: Path):
    """A table of a newer program is refused by name."""
    written = frequency(2)
    write_frequency(tmp_path, replace(written, lineage=replace(written.lineage, version=2)))
    with pytest.raises(IncompatibleError) as caught:
        read_frequency(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}/frequency.parquet: expected format version 1 or older, found version 2; upgrade sparserm"
    )


def test_parquet_of_another_program(tmp_path: Path):
    """A Parquet file that is none of ours."""
    pq.write_table(pq.read_table(_foreign(tmp_path)), frequency_path(tmp_path))
    with pytest.raises(CorruptStoreError):
        read_frequency(tmp_path)


def _foreign(folder: Path) -> Path:
    import pyarrow as pa

    path = folder / "other.parquet"
    pq.write_table(pa.table({"a": [1, 2]}), path)
    return path
