"""directions/: what is written is read, and damage or another version is refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from sparserm_cli.errors import CorruptStoreError, IncompatibleError
from sparserm_cli.store.artifacts.directions import (
    Directions,
    LayerDirections,
    directions_path,
    read_directions,
    write_directions,
)
from sparserm_cli.store.io.sealed_json import read_sealed, write_sealed
from sparserm_cli.store.provenance import Lineage, Parent

FIELDS = ("feature", "side", "statistic", "rate_chosen", "rate_rejected", "q")


def layer(top_k: int, d_in: int, *, known: bool = True, seed: int = 0) -> LayerDirections:
    """Make up directions; random ones (`known=False`) have no latent and no numbers."""
    rng = np.random.default_rng(seed)
    count = 2 * top_k
    numbers = [rng.random(count) if known else np.full(count, np.nan) for _ in range(4)]
    return LayerDirections(
        rng.standard_normal((count, d_in)).astype(np.float32),
        rng.permutation(99)[:count] if known else np.full(count, -1),
        np.repeat(np.array([1, -1], np.int8), top_k),
        *numbers,
    )


def directions(layers: dict[int, LayerDirections]) -> Directions:
    """Make up an artifact."""
    parents = {"frequency": Parent("cd", {"unit": "token"})}
    return Directions(Lineage("directions", 1, {"by": "difference", "top_k": 2}, parents), layers)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    top_k=st.integers(1, 5),
    d_in=st.integers(1, 6),
    known=st.booleans(),
    layers=st.sets(st.integers(0, 40), min_size=1, max_size=3),
)
def test_what_is_written_is_read(tmp_path: Path, top_k: int, d_in: int, known: bool, layers: set[int]):
    """Rows and numbers to the bit, NaN as NaN, layers in order."""
    made = directions({n: layer(top_k, d_in, known=known, seed=n) for n in layers})
    written = write_directions(tmp_path, made)
    read = read_directions(tmp_path)
    assert read.lineage == written.lineage
    assert list(read.layers) == list(made.layers)
    for number, expected in made.layers.items():
        actual = read.layers[number]
        for name in ("rows", *FIELDS):
            assert np.array_equal(
                getattr(actual, name), getattr(expected, name), equal_nan=name in FIELDS[2:]
            )
            assert getattr(actual, name).dtype == getattr(expected, name).dtype, name


def test_the_json_says_what_a_reader_needs(tmp_path: Path):
    """A random direction has null for latent and numbers; JSON has no NaN."""
    write_directions(tmp_path, directions({14: layer(1, 2, known=False)}))
    record = json.loads((directions_path(tmp_path) / "directions.json").read_text())
    assert (record["type"], record["version"]) == ("directions", 1)
    assert record["layers"]["14"][1] == {
        "feature": None,
        "side": -1,
        "statistic": None,
        "rate_chosen": None,
        "rate_rejected": None,
        "q": None,
    }


def test_a_second_selection_replaces_the_first(tmp_path: Path):
    """The old folder is gone as a whole."""
    write_directions(tmp_path, directions({14: layer(3, 2)}))
    write_directions(tmp_path, directions({8: layer(1, 2)}))
    assert list(read_directions(tmp_path).layers) == [8]
    assert [path.name for path in tmp_path.iterdir()] == ["directions"]


def test_nothing_there(tmp_path: Path):
    """The error says what to run."""
    with pytest.raises(IncompatibleError) as caught:
        read_directions(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}/directions: expected preference directions, found no folder; run `sparserm select` first"
    )


@pytest.mark.parametrize("name", ["directions.safetensors", "directions.json"])
def test_row_11_missing_file(tmp_path: Path, name: str):
    """Either file missing is corruption, named."""
    write_directions(tmp_path, directions({14: layer(2, 3)}))
    (directions_path(tmp_path) / name).unlink()
    with pytest.raises(CorruptStoreError) as caught:
        read_directions(tmp_path)
    assert name in str(caught.value)
    assert caught.value.hint == "run `sparserm select` again"


@pytest.mark.parametrize("name", ["directions.safetensors", "directions.json"])
@pytest.mark.parametrize("cut", [0, 20])
def test_row_12_cut_file(tmp_path: Path, name: str, cut: int):
    """An empty or cut file is never half read."""
    write_directions(tmp_path, directions({14: layer(2, 3)}))
    path = directions_path(tmp_path) / name
    path.write_bytes(path.read_bytes()[: cut and -cut])
    with pytest.raises(CorruptStoreError):
        read_directions(tmp_path)


def test_row_10_bit_flip(tmp_path: Path):
    """Any flipped bit, in the rows or in the JSON, is found."""
    write_directions(tmp_path, directions({14: layer(2, 3)}))
    for name in ("directions.safetensors", "directions.json"):
        path = directions_path(tmp_path) / name
        whole = path.read_bytes()
        for place in range(8, len(whole), 37):
            damaged = bytearray(whole)
            damaged[place] ^= 4
            path.write_bytes(damaged)
            with pytest.raises((CorruptStoreError, IncompatibleError)):
                read_directions(tmp_path)
        path.write_bytes(whole)
    read_directions(tmp_path)


def test_rows_that_are_not_as_many_as_told(tmp_path: Path):
    """A tensor file of another selection is refused."""
    write_directions(tmp_path / "a", directions({14: layer(2, 3)}))
    write_directions(tmp_path / "b", directions({14: layer(1, 3)}))
    other = directions_path(tmp_path / "b") / "directions.safetensors"
    other.rename(directions_path(tmp_path / "a") / "directions.safetensors")
    with pytest.raises(CorruptStoreError) as caught:
        read_directions(tmp_path / "a")
    assert "directions of format 1" in str(caught.value)


def test_row_13_swapped_rows(tmp_path: Path):
    """Rows of a selection of the same shape are refused by the digest."""
    write_directions(tmp_path / "a", directions({14: layer(2, 3)}))
    write_directions(tmp_path / "b", directions({14: layer(2, 3, seed=1)}))
    other = directions_path(tmp_path / "b") / "directions.safetensors"
    other.rename(directions_path(tmp_path / "a") / "directions.safetensors")
    with pytest.raises(CorruptStoreError) as caught:
        read_directions(tmp_path / "a")
    assert "expected xxh3-128" in str(caught.value)


def test_row_37_newer_version(tmp_path: Path):
    """Directions of a newer program are refused by name."""
    made = directions({14: layer(1, 2)})
    write_directions(tmp_path, replace(made, lineage=replace(made.lineage, version=2)))
    with pytest.raises(IncompatibleError) as caught:
        read_directions(tmp_path)
    assert caught.value.hint == "upgrade sparserm"


FACTS = {
    "feature": [-2, 0.5, "1", 10**30],
    "side": [0, 2, 300, None, "1"],
    "statistic": ["1", [1.0]],
    "rate_chosen": [-0.1, 1.1, "1"],
    "rate_rejected": [-0.1, 1.1],
    "q": [-0.1, 2.0],
}


@pytest.mark.parametrize("name", FACTS)
def test_row_102_absurd_facts_under_a_seal(tmp_path: Path, name: str):
    """Whatever stands for a number of a direction: it is refused in one line, and never misread."""
    write_directions(tmp_path, directions({14: layer(1, 2)}))
    path = directions_path(tmp_path) / "directions.json"
    head = read_sealed(path)
    for value in FACTS[name]:
        changed = json.loads(json.dumps(head))
        changed["layers"]["14"][0][name] = value
        write_sealed(path, changed)
        with pytest.raises(CorruptStoreError) as caught:
            read_directions(tmp_path)
        assert "expected directions of format 1, found " in str(caught.value)
        assert "\n" not in str(caught.value)
    write_sealed(path, head)
    read_directions(tmp_path)


ROWS = {
    "NaN": np.full((2, 2), np.nan, np.float32),
    "infinite": np.full((2, 2), np.inf, np.float32),
    "another type": np.ones((2, 2), np.float64),
    "a vector": np.ones(2, np.float32),
    "another number of rows": np.ones((3, 2), np.float32),
}


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
def test_row_102_absurd_rows_under_a_seal(tmp_path: Path, rows: np.ndarray):
    """The decoder rows are checked before anything is computed with them."""
    write_directions(tmp_path, directions({14: layer(1, 2)}))
    save_file({"layers.14": rows}, directions_path(tmp_path) / "directions.safetensors")
    with pytest.raises(CorruptStoreError, match="expected directions of format 1, found ValueError"):
        read_directions(tmp_path)
