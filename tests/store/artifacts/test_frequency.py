"""frequency.parquet: what is written is read, and damage or another version is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparserm_cli.errors import CorruptStoreError, IncompatibleError
from sparserm_cli.store.arrays.sealed_parquet import read_sealed_table, write_sealed_table
from sparserm_cli.store.artifacts.frequency import (
    Frequency,
    LatentStatistics,
    Totals,
    frequency_path,
    read_frequency,
    write_frequency,
)
from sparserm_cli.store.provenance import Lineage, Parent


def measures(d_sae: int, seed: int = 0) -> LatentStatistics:
    """Make up measures; the store does not look at what they mean."""
    rng = np.random.default_rng(seed)
    sides = {name: rng.random((2, d_sae)) for name in ("rate", "low", "high")}
    plain = ("difference", "standardised", "length_controlled", "z", "q", "mcnemar", "mcnemar_q")
    return LatentStatistics(
        **sides,
        responses=rng.integers(0, 9, (2, d_sae)),
        fold_rate=rng.random((2, d_sae, 3)).astype(np.float32),
        **{name: rng.standard_normal(d_sae) for name in plain},
        mutual_information=rng.random(d_sae),
    )


def frequency(*sizes: int) -> Frequency:
    """Make up a table with one layer a size."""
    lineage = Lineage(
        "frequency", 2, {"unit": "token", "seed": 0}, {"features": Parent("ab", {"d_sae": list(sizes)})}
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
        for name, column in read.layers[layer]._asdict().items():
            assert np.array_equal(column, getattr(expected, name)), name
            assert column.dtype == getattr(expected, name).dtype, name


def test_others_can_read_the_table(tmp_path: Path):
    """One row a latent with the documented columns, readable by any Parquet reader."""
    written = write_frequency(tmp_path, frequency(3, 2))
    table = pq.read_table(frequency_path(tmp_path))
    assert table.column("layer").to_pylist() == [4, 4, 4, 5, 5]
    assert table.column("feature").to_pylist() == [0, 1, 2, 0, 1]
    assert table.column("rate_rejected").to_pylist()[3:] == written.layers[5].rate[1].tolist()
    head = json.loads(table.schema.metadata[b"sparserm"])
    assert (head["type"], head["version"], head["unit"]) == ("frequency", 2, "token")


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


def test_row_10_a_flipped_bit_in_any_byte(tmp_path: Path):
    """Of columns, page headers, footer or padding: the seal is of the whole file."""
    write_frequency(tmp_path, frequency(3))
    path = frequency_path(tmp_path)
    whole = path.read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(CorruptStoreError):
            read_frequency(tmp_path)
    path.write_bytes(whole)
    read_frequency(tmp_path)


def test_a_table_changed_by_another_program_is_refused(tmp_path: Path):
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
    """A table without a column is corrupt, even with a seal."""
    write_frequency(tmp_path, frequency(3))
    path = frequency_path(tmp_path)
    table, head = read_sealed_table(path, 2, "")
    write_sealed_table(path, table.drop_columns(["mcnemar"]), head)
    with pytest.raises(CorruptStoreError) as caught:
        read_frequency(tmp_path)
    assert "the columns of format 2" in str(caught.value)


def spoilt(values: np.ndarray, number: float) -> np.ndarray:
    """Return a column with another first number."""
    changed = values.copy()
    changed.flat[0] = number
    return changed


ABSURD = {
    "a rate of NaN": {"rate": lambda rate: spoilt(rate, np.nan)},
    "a rate above 1": {"rate": lambda rate: spoilt(rate, 1.5)},
    "a negative interval": {"low": lambda low: spoilt(low, -0.1)},
    "an infinite difference": {"difference": lambda difference: spoilt(difference, np.inf)},
    "a negative count": {"responses": lambda responses: spoilt(responses, -1)},
    "more responses than there are": {"responses": lambda responses: spoilt(responses, 13)},
    "counts of another type": {"responses": lambda responses: responses.astype(np.int32)},
    "rates of another type": {"rate": lambda rate: rate.astype(np.float32)},
    "rates of another shape": {"fold_rate": lambda rates: rates[..., 0].astype(np.float64)},
}


@pytest.mark.parametrize("change", ABSURD.values(), ids=ABSURD)
def test_row_102_absurd_columns_under_a_seal(tmp_path: Path, change: dict[str, Callable[..., np.ndarray]]):
    """A seal and a digest that fit prove only that no byte was damaged."""
    made = frequency(3)
    (name, spoil), *_ = change.items()
    columns = made.layers[4]._replace(**{name: spoil(getattr(made.layers[4], name))})
    write_frequency(tmp_path, replace(made, layers={4: columns}))
    with pytest.raises(CorruptStoreError) as caught:
        read_frequency(tmp_path)
    assert f"expected the columns of format 2, found something else ({name} of layer 4" in str(caught.value)
    assert str(caught.value).endswith("; run `sparserm frequency` again")


HEADS = {
    "totals that are negative": {"totals": {"responses": [-1, 4]}},
    "totals that are no numbers": {"totals": {"tokens": ["1", "2"]}},
    "a share of totals": {"totals": {"pairs": 0.5}},
    "an unknown unit": {"unit": "sentence"},
    "a layer below the first": {"layers": {"-1": 3}},
    "fewer latents than rows": {"layers": {"4": 2}},
    "more latents than rows": {"layers": {"4": 4}},
    "a negative number of latents": {"layers": {"4": -3}},
    "no object of layers": {"layers": 3},
    "another digest": {"digest": "0" * 32},
}


@pytest.mark.parametrize("change", HEADS.values(), ids=HEADS)
def test_row_102_absurd_metadata_under_a_seal(tmp_path: Path, change: dict[str, object]):
    """The numbers beside the columns are checked as well, and the recorded digest is compared."""
    write_frequency(tmp_path, frequency(3))
    table, head = read_sealed_table(frequency_path(tmp_path), 2, "")
    (name, value), *_ = change.items()
    merged = {**head[name], **value} if name == "totals" else value
    write_sealed_table(frequency_path(tmp_path), table, {**head, name: merged})
    with pytest.raises(CorruptStoreError, match="run `sparserm frequency` again"):
        read_frequency(tmp_path)


def test_row_37_newer_version(tmp_path: Path):
    """A table of a newer program is refused by name."""
    written = frequency(2)
    write_frequency(tmp_path, replace(written, lineage=replace(written.lineage, version=3)))
    with pytest.raises(IncompatibleError) as caught:
        read_frequency(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}/frequency.parquet: expected format version 2 or older, found version 3; upgrade sparserm"
    )


def test_row_37_a_table_of_format_1_has_no_seal(tmp_path: Path):
    """It is read as ever; one that calls itself newer must have a seal."""
    written = write_frequency(
        tmp_path, replace(frequency(3), lineage=replace(frequency(3).lineage, version=1))
    )
    table, head = read_sealed_table(frequency_path(tmp_path), 2, "")
    for version in (1, 2):
        metadata = {b"sparserm": json.dumps({**head, "version": version})}
        pq.write_table(table.replace_schema_metadata(metadata), frequency_path(tmp_path))
        if version == 1:
            assert read_frequency(tmp_path).lineage == written.lineage
    with pytest.raises(
        CorruptStoreError, match="expected a sealed Parquet table, found a file that does not"
    ):
        read_frequency(tmp_path)


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
