"""Reward heads: scores by hand, several layers and poolings, loading from files."""

import numpy as np
import pytest

from sparserm_cli.models.head.reward_head import RewardHead
from sparserm_cli.store.artifacts.head_arrays import HeadArrays
from sparserm_cli.store.artifacts.reward import RewardConfig, RewardFiles
from sparserm_cli.store.provenance import Lineage

POOLED = {
    2: {
        "mean": np.array([[1.0, 2.0], [0.0, 1.0]], np.float32),
        "last": np.array([[3.0, 0.0], [1.0, 1.0]], np.float32),
    },
    5: {
        "mean": np.array([[0.5, 0.0], [2.0, 2.0]], np.float32),
        "last": np.array([[0.0, 4.0], [0.0, 0.0]], np.float32),
    },
}


def f32(*values: object) -> np.ndarray:
    """Return numbers as float32."""
    return np.array(values, np.float32)


def linear(width: int, directions: dict[int, np.ndarray] | None = None) -> HeadArrays:
    """Make a linear head with weights 1, 2, 3, ... and bias 0.5 on projections (x - 1) / 2."""
    weight = np.arange(1, width + 1, dtype=np.float32)
    weights = {"weight": weight, "bias": f32(0.5)}
    return HeadArrays(np.ones(width, np.float32), np.full(width, 2.0, np.float32), weights, directions or {})


def test_linear_head_by_hand():
    """One layer, two directions: projections (3, 2) and (1, 1), standardised (1, 0.5) and (0, 0)."""
    head = RewardHead(linear(2, {2: f32([1, 1], [0, 1])}), [2], "mean")
    assert head(POOLED).tolist() == [1 * 1 + 0.5 * 2 + 0.5, 0.5]


def test_both_poolings_and_two_layers_stand_in_order():
    """Layer by layer, mean before last: (1, 3, 0, 4) for the first response, directions one a layer."""
    head = RewardHead(linear(4, {2: f32([1, 0]), 5: f32([0, 1])}), [2, 5], "both")
    x = head.standardised(POOLED)
    assert x[0].tolist() == [0.0, 1.0, -0.5, 1.5]
    assert head(POOLED)[0] == pytest.approx(0.0 + 2.0 - 1.5 + 6.0 + 0.5)


def test_without_directions_the_vectors_themselves_are_scored():
    """The dense control."""
    head = RewardHead(linear(4), [2, 5], "mean")
    assert head.standardised(POOLED)[1].tolist() == [-0.5, 0.0, 0.5, 0.5]


def test_hidden_layer_by_hand():
    """relu(x @ [[1, -1]] + [0, 1]) @ [2, 3] - 1 at x = 0 and x = -0.5."""
    weights = {"weight_1": f32([1, -1]), "bias_1": f32(0, 1), "weight_2": f32(2, 3), "bias": f32(-1)}
    arrays = HeadArrays(f32(1), f32(2), weights, {2: f32([1, 0])})
    assert RewardHead(arrays, [2], "mean")(POOLED).tolist() == [2.0, 3.5]


def test_no_responses():
    """Nothing in, nothing out."""
    empty = {2: {"mean": np.empty((0, 2), np.float32)}}
    assert RewardHead(linear(2), [2], "mean")(empty).shape == (0,)


def test_chunks_do_not_change_scores(monkeypatch: pytest.MonkeyPatch):
    """However many responses are projected at a time."""
    rng = np.random.default_rng(0)
    pooled = {2: {"mean": rng.standard_normal((50, 2)).astype(np.float32)}}
    head = RewardHead(linear(2), [2], "mean")
    whole = head(pooled)
    monkeypatch.setattr("sparserm_cli.models.head.reward_head._CHUNK", 7)
    assert head(pooled) == pytest.approx(whole, abs=1e-6)


def test_controls_load_by_name():
    """A control without directions is scored on mean vectors whatever the model pools."""
    files = RewardFiles(
        RewardConfig(
            Lineage("reward", 1, {}), "m", "r", "t", "d", (2,), ("blocks.2.hook_resid_post",), 2, "float32",
            "last", "linear", "bt",
        ),
        linear(1, {2: f32([0, 1])}),
        {"dense": linear(2)},
    )  # fmt: skip
    assert RewardHead.from_files(files)(POOLED).tolist() == [0.0, 0.5]
    assert RewardHead.from_files(files, "dense")(POOLED).tolist() == [1.5, 0.0]
