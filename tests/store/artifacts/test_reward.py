"""reward/: what is written is read, and damage or another version is refused."""

import json
import resource
from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparserm_cli.errors import CorruptStoreError, IncompatibleError, ResourceError
from sparserm_cli.store.artifacts.head_arrays import HeadArrays
from sparserm_cli.store.artifacts.reward import (
    Metric,
    RewardConfig,
    RewardFiles,
    read_reward,
    write_reward,
)
from sparserm_cli.store.io.sealed_json import read_sealed, write_sealed
from sparserm_cli.store.provenance import Lineage, Parent

GOLDEN = Path(__file__).parents[1] / "golden" / "version-1" / "reward"
FILES = ("model.safetensors", "controls.safetensors", "config.json")


def head(p: int, hidden: int = 0, layers: tuple[int, ...] = (), seed: int = 0) -> HeadArrays:
    """Make up a head: linear, or with a hidden layer; with directions, or on the vectors themselves."""
    rng = np.random.default_rng(seed)

    def drawn(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    weights = {"weight": drawn(p), "bias": drawn(1)}
    if hidden:
        weights = {
            "weight_1": drawn(p, hidden),
            "bias_1": drawn(hidden),
            "weight_2": drawn(hidden),
            "bias": drawn(1),
        }
    directions = {layer: drawn(p // len(layers), 5) for layer in layers}
    return HeadArrays(drawn(p), np.abs(drawn(p)) + 0.1, weights, directions)


def config(**changes: object) -> RewardConfig:
    """Make up a config in which every field is set."""
    values = {
        "lineage": Lineage("reward", 2, {"pool": "mean"}, {"directions": Parent("ab", {"by": "difference"})}),
        "model": "tiny",
        "model_revision": "sha256:0",
        "tokenizer": "t0",
        "template_digest": "d0",
        "layers": (2, 9),
        "hook_names": ("blocks.2.hook_resid_post", "blocks.9.hook_resid_post"),
        "d_in": 5,
        "dtype": "bfloat16",
        "pool": "mean",
        "head": "linear",
        "loss": "bt",
        "template": "raw",
        "template_text": "{{ messages }}",
        "max_length": 99,
        "seed": 3,
        "val_fraction": 0.1,
        "selection": {"by": "difference", "top_k": 1, "latents": {"2": [4, 1], "9": [0, 3]}, "sae": ["s"]},
        "training": {"train_pairs": 12, "validation_pairs": 3, "inputs": ["ff (3 bytes)"]},
        "metrics": (
            Metric("reward", "validation", 0.75, 0.5, 0.9, 4, 1),
            Metric("dense", "train", 1.0, 0.9, 1.0, 8),
        ),
        "score_mean": 0.25,
        "score_std": 1.5,
        "distance": {"0.5": 1.0, "0.99": 1.75},
        "probe": {"prompt": [1, 2], "response": [3], "score": 0.5},
        "length_preference": -1,
    }  # fmt: skip
    return RewardConfig(**{**values, **changes})


def files(**changes: object) -> RewardFiles:
    """Make up a reward model with two controls."""
    return RewardFiles(
        config(**changes),
        head(4, layers=(2, 9)),
        {"dense": head(10), "random directions": head(4, layers=(2, 9))},
    )


def same(actual: HeadArrays, expected: HeadArrays) -> bool:
    """Tell whether two heads are equal to the bit."""
    parts = [(actual.mean, expected.mean), (actual.std, expected.std)]
    parts += [(actual.weights[name], tensor) for name, tensor in expected.weights.items()]
    parts += [(actual.directions[layer], tensor) for layer, tensor in expected.directions.items()]
    keys = set(actual.weights) == set(expected.weights) and list(actual.directions) == list(
        expected.directions
    )
    return keys and all(np.array_equal(array, other) for array, other in parts)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    hidden=st.integers(0, 3),
    layers=st.lists(st.integers(0, 30), min_size=0, max_size=3, unique=True).map(sorted),
    k=st.integers(1, 4),
    directed=st.booleans(),
)
def test_what_is_written_is_read(tmp_path: Path, hidden: int, layers: list[int], k: int, directed: bool):
    """Every tensor and every field, whatever the head."""
    layers = layers or [2, 9]
    width = k * len(layers) if directed else 5 * len(layers)
    made = replace(
        files(layers=tuple(layers), hook_names=tuple(f"blocks.{layer}" for layer in layers)),
        head=head(width, hidden, tuple(layers) if directed else ()),
        controls={"dense": head(5 * len(layers)), "random directions": head(4 * len(layers), layers=layers)},
    )
    written = write_reward(tmp_path / "reward", made)
    read = read_reward(tmp_path / "reward")
    assert read.config == written.config
    assert read.config == replace(made.config, lineage=read.config.lineage)
    assert same(read.head, made.head)
    assert list(read.controls) == list(made.controls)
    assert all(same(read.controls[name], control) for name, control in made.controls.items())


def test_layers_come_back_in_order(tmp_path: Path):
    """Layer 10 after layer 9, although its name sorts before."""
    made = replace(files(layers=(9, 10)), head=head(4, layers=(9, 10)), controls={})
    write_reward(tmp_path / "reward", made)
    assert list(read_reward(tmp_path / "reward").head.directions) == [9, 10]


def test_parameters_are_counted():
    """Four weights and a bias; with three hidden units 4 * 3 + 3 + 3 + 1."""
    assert head(4).parameters == 5
    assert head(4, 3).parameters == 19


def test_the_folder_is_portable(tmp_path: Path):
    """Moved elsewhere it reads the same, and no path of this machine stands in it."""
    write_reward(tmp_path / "reward", files())
    (tmp_path / "reward").rename(tmp_path / "moved")
    read_reward(tmp_path / "moved")
    for path in (tmp_path / "moved").iterdir():
        assert str(tmp_path).encode() not in path.read_bytes()


def test_the_card_tells_what_it_is(tmp_path: Path):
    """Model, pooling and accuracies for people and hubs."""
    write_reward(tmp_path / "reward", files())
    card = (tmp_path / "reward" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: sparserm\nbase_model: tiny\n")
    assert (
        "It is 4 directions in the residual stream of `tiny` (revision `sha256:0`) after\nblocks 2, 9" in card
    )
    assert "| reward | validation | 0.750 | 0.500 to 0.900 | 4 |" in card
    assert "- training pairs: 12" in card


def test_nothing_there(tmp_path: Path):
    """The error says what to run."""
    with pytest.raises(IncompatibleError) as caught:
        read_reward(tmp_path / "reward")
    assert str(caught.value) == (
        f"{tmp_path}/reward: expected a fitted reward model, found no folder; run `sparserm fit` first"
    )


@pytest.mark.parametrize("name", FILES)
def test_row_11_missing_file(tmp_path: Path, name: str):
    """Each file is needed."""
    write_reward(tmp_path / "reward", files())
    (tmp_path / "reward" / name).unlink()
    with pytest.raises(CorruptStoreError) as caught:
        read_reward(tmp_path / "reward")
    assert name in str(caught.value)


def test_the_card_may_be_missing(tmp_path: Path):
    """It is for people only."""
    write_reward(tmp_path / "reward", files())
    (tmp_path / "reward" / "README.md").unlink()
    assert read_reward(tmp_path / "reward").config.model == files().config.model


@pytest.mark.parametrize("name", FILES)
def test_row_10_and_12_cut_or_flipped(tmp_path: Path, name: str):
    """A cut file or a flipped bit anywhere is found."""
    write_reward(tmp_path / "reward", files())
    path = tmp_path / "reward" / name
    whole = path.read_bytes()
    damaged = [b"", whole[:-7]]
    for place in range(8, len(whole), max(1, len(whole) // 25)):
        flipped = bytearray(whole)
        flipped[place] ^= 4
        damaged.append(bytes(flipped))
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises((CorruptStoreError, IncompatibleError)):
            read_reward(tmp_path / "reward")


def test_row_13_tensors_of_another_model(tmp_path: Path):
    """Tensors of the same shape from another fit are refused."""
    write_reward(tmp_path / "a", files())
    write_reward(tmp_path / "b", replace(files(), head=head(4, layers=(2, 9), seed=1)))
    (tmp_path / "b" / "model.safetensors").rename(tmp_path / "a" / "model.safetensors")
    with pytest.raises(CorruptStoreError) as caught:
        read_reward(tmp_path / "a")
    assert "expected xxh3-128" in str(caught.value)


def test_row_37_version_1_opens_with_its_digest():
    """What the first release wrote: no whitening, no probe, and every number as it was."""
    read = read_reward(GOLDEN)
    assert read.config.lineage.digest == "94c7a202e21b9eb81e98e7bbf124a8d2"
    assert same(read.head, files().head)
    assert (read.whitening, read.config.probe) == (None, {})
    assert read.config.distance == {"0.5": 1.0, "0.99": 1.75}


def test_the_whitening_is_kept_and_digested(tmp_path: Path):
    """A reward model with another whitening is another reward model."""
    plain = write_reward(tmp_path / "plain", files())
    made = write_reward(tmp_path / "reward", replace(files(), whitening=np.eye(4, dtype=np.float32)))
    read = read_reward(tmp_path / "reward")
    assert read.whitening is not None
    assert np.array_equal(read.whitening, np.eye(4))
    assert plain.config.lineage.digest != made.config.lineage.digest == read.config.lineage.digest


def test_a_whitening_of_another_size_is_refused(tmp_path: Path):
    """It must take the projections that the head takes."""
    write_reward(tmp_path / "reward", replace(files(), whitening=np.eye(3, dtype=np.float32)))
    with pytest.raises(CorruptStoreError, match=r"a whitening of shape \(3, 3\) for 4 projections"):
        read_reward(tmp_path / "reward")


def test_row_37_newer_version(tmp_path: Path):
    """A reward model of a newer program is refused by name."""
    write_reward(tmp_path / "reward", files(lineage=Lineage("reward", 3, {})))
    with pytest.raises(IncompatibleError) as caught:
        read_reward(tmp_path / "reward")
    assert caught.value.hint == "upgrade sparserm"


def test_tensors_that_are_no_head(tmp_path: Path):
    """Weights that do not fit the projections are refused even with a right digest."""
    wrong = HeadArrays(np.zeros(3, np.float32), np.ones(3, np.float32), head(4).weights)
    write_reward(tmp_path / "reward", replace(files(), head=wrong))
    with pytest.raises(CorruptStoreError) as caught:
        read_reward(tmp_path / "reward")
    assert "4 weights for 3 projections" in str(caught.value)


def test_no_pickle_and_plain_json(tmp_path: Path):
    """The config is JSON without NaN, the tensors safetensors; nothing else is there."""
    write_reward(tmp_path / "reward", files())
    assert {path.name for path in (tmp_path / "reward").iterdir()} == {*FILES, "README.md"}
    record = json.loads((tmp_path / "reward" / "config.json").read_text())
    assert (record["type"], record["version"], record["controls"]) == (
        "reward",
        2,
        ["dense", "random directions"],
    )


def resealed(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change what is recorded of a reward model, and seal it as if nothing had happened."""
    record = read_sealed(folder / "config.json")
    change(record["reward"])
    write_sealed(folder / "config.json", record)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("distance", {}, "distance: '[]' instead of a quantile 0.99"),
        ("distance", {"0.99": 0}, "distance 0.99: '0' instead of a number above 0"),
        ("distance", {"0.99": "1"}, "distance 0.99: '1' instead of a number above 0"),
        ("pool", "max", "pool: 'max' instead of one of mean, last, both"),
        ("pool", ["mean"], "pool: \"['mean']\" instead of text"),
        ("score_std", 0, "score_std: '0' instead of a number above 0"),
        ("score_mean", "0.5", "score_mean: '0.5' instead of a finite number"),
        ("score_mean", None, "score_mean: 'None' instead of a finite number"),
        ("d_in", True, "d_in: 'True' instead of a whole number from 0"),
        ("max_length", -1, "max_length: '-1' instead of a whole number from 0"),
        ("model", 7, "model: '7' instead of text"),
        ("layers", [2, 2], "layers: '[2, 2]' instead of different whole numbers from 0"),
        ("layers", [2, 3], "layers: '[2, 9]' instead of layers [2, 3]"),
        ("d_in", 6, "directions: '[(5,)]' instead of rows of width 6"),
        ("pool", "both", "mean: '(4,)' instead of shape (8,)"),
        ("hook_names", ["a"], "hook_names: \"['a']\" instead of 2 names"),
        ("selection", [], "selection: '[]' instead of an object"),
        (
            "probe",
            {"prompt": [1], "response": [-1], "score": 0.5},
            "probe response: '[-1]' instead of a list",
        ),
        ("probe", {"prompt": [1], "response": [], "score": 0.5}, "probe response: '[]' instead of at least"),
        ("length_preference", 5, "length_preference: '5' instead of -1, 0, 1"),
    ],
)
def test_row_88_a_resealed_field_is_named(tmp_path: Path, field: str, value: object, message: str):
    """A seal says that nobody damaged the file, not that what it says can be."""
    write_reward(tmp_path / "reward", files())
    resealed(tmp_path / "reward", lambda record: record.update({field: value}))
    with pytest.raises(CorruptStoreError) as caught:
        read_reward(tmp_path / "reward")
    assert message in str(caught.value).replace("\\'", "'").replace('\\"', '"')
    assert "\n" not in str(caught.value)


WRONG = (None, "x", {}, [], -1, 1e308, True, [[]], {"": None}, "\x1b[31m")


def test_row_88_no_field_of_any_kind_is_a_raw_error(tmp_path: Path):
    """Every field, and every item inside it, replaced by everything: it is read or refused."""
    folder = tmp_path / "reward"
    write_reward(folder, files())
    record = read_sealed(folder / "config.json")
    places = [(name,) for name in record] + [("reward", name) for name in record["reward"]]
    places += [("reward", name, key) for name in ("distance", "probe") for key in record["reward"][name]]
    places += [
        ("reward", "metrics", 0),
        ("reward", "layers", 0),
        ("reward", "hook_names", 0),
        ("controls", 0),
    ]
    refused = []
    for place in places:
        for value in WRONG:
            changed = json.loads(json.dumps(record))
            reduce(getitem, place[:-1], changed)[place[-1]] = value
            write_sealed(folder / "config.json", changed)
            try:
                read_reward(folder)
            except (CorruptStoreError, IncompatibleError) as refusal:
                refused.append(str(refusal))
    assert len(refused) > len(places)
    assert not any("\n" in line for line in refused)


@pytest.mark.parametrize(
    ("name", "value"),
    [("weight", np.nan), ("bias", np.inf), ("mean", -np.inf), ("std", 0.0), ("std", np.nan)],
)
def test_row_88_tensors_must_be_numbers(tmp_path: Path, name: str, value: float):
    """Whoever wrote them also wrote their digest."""
    made = head(4, layers=(2, 9))
    arrays = {"mean": made.mean, "std": made.std, **made.weights}
    arrays[name] = np.full_like(arrays[name], value)
    weights = {key: arrays[key] for key in ("weight", "bias")}
    broken = HeadArrays(arrays["mean"], arrays["std"], weights, made.directions)
    for unscorable in (
        replace(files(), head=broken),
        replace(files(), controls={"random directions": broken}),
    ):
        write_reward(tmp_path / "reward", unscorable)
        with pytest.raises(
            CorruptStoreError, match=f"{name}: '.*' instead of (finite numbers|numbers above 0)"
        ):
            read_reward(tmp_path / "reward")


def test_row_99_a_full_disk_while_tensors_are_written(tmp_path: Path):
    """The library that writes them spells the system's error in its text alone; nothing is left behind."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    made = replace(files(d_in=5000), head=head(4, layers=(2, 9)), controls={})
    wide = {layer: np.zeros((2, 5000), np.float32) for layer in (2, 9)}
    made = replace(made, head=replace(made.head, directions=wide))
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(ResourceError) as caught:
            write_reward(tmp_path / "reward", made)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "bytes on the disk, found a limit on file size; free space" in str(caught.value)
    assert list(tmp_path.iterdir()) == []
