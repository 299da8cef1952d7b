"""Parts of scores: they add up, exactly for linear heads, and groups of directions hold each once."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparserm_cli.config import ScoreLimits
from sparserm_cli.models.head.attribution import (
    INTERCEPT,
    REMAINDER,
    direction_names,
    part_groups,
    parts_of,
)
from sparserm_cli.models.head.reward_head import RewardHead
from sparserm_cli.models.rewards import Rewards
from sparserm_cli.store.artifacts.head_arrays import HeadArrays

DIRECTIONS, D_IN = 6, 5
SELECTION = {"latents": {"1": [40, 41, 42, 43, 44, 45], "2": [50, 51, 52, 53, 54, -1]}}


def head_of(seed: int, kind: str, pool: str = "mean") -> RewardHead:
    """Make a head with random tensors on two layers of six directions."""
    generator = np.random.default_rng(seed)
    count = 2 * DIRECTIONS * (2 if pool == "both" else 1)
    shapes = {"weight": (count,), "bias": (1,)}
    if kind == "mlp":
        shapes = {"weight_1": (count, 4), "bias_1": (4,), "weight_2": (4,), "bias": (1,)}
    weights = {name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    rows = {layer: generator.normal(size=(DIRECTIONS, D_IN)).astype(np.float32) for layer in (1, 2)}
    mean = generator.normal(size=count).astype(np.float32)
    return RewardHead(HeadArrays(mean, np.abs(mean) + 1, weights, rows), (1, 2), pool)


@given(
    seed=st.integers(0, 999),
    pool=st.sampled_from(["mean", "last", "both"]),
    count=st.integers(0, 15),
    size=st.floats(0.01, 100),
)
def test_parts_of_a_linear_head_add_up_to_the_score(seed: int, pool: str, count: int, size: float) -> None:
    """To the precision of float32, for any number of groups; no part is a remainder."""
    head = head_of(seed, "linear", pool)
    generator = np.random.default_rng(seed)
    x = torch.tensor(size * generator.normal(size=(3, len(head.arrays.mean))), dtype=torch.float32)
    parts = parts_of(head, x)
    rows = parts.by_group(part_groups(head, SELECTION, count))
    weight = head.arrays.weights["weight"].astype(np.float64)
    precision = 1e-5 * (np.abs(x.numpy()) @ np.abs(weight) + 1).max()
    for row, score in zip(rows, head.score(x).numpy(), strict=True):
        assert sum(row.values()) == pytest.approx(float(score), abs=precision)
        assert REMAINDER not in row
        assert row[INTERCEPT] == float(head.arrays.weights["bias"][0])
    np.testing.assert_allclose(parts.values, x.double().numpy() * weight)


def test_a_hidden_layer_tells_what_its_parts_miss() -> None:
    """With the remainder they add up exactly, and it is small."""
    head = head_of(0, "mlp")
    x = torch.tensor(np.random.default_rng(1).normal(size=(4, 12)), dtype=torch.float32)
    parts = parts_of(head, x)
    assert parts.method == "integrated gradients"
    for row, score in zip(parts.by_group(part_groups(head, SELECTION, 3)), parts.scores, strict=True):
        assert sum(row.values()) == pytest.approx(score, abs=1e-9)
        assert abs(row[REMAINDER]) < 1e-2 * np.abs(parts.scores).max()
        assert next(iter(row)) == INTERCEPT
        assert len(row) == 3 + 2


@pytest.mark.parametrize("pool", ["mean", "both"])
@pytest.mark.parametrize("count", [0, 1, 4, 12, 99])
def test_every_direction_is_in_one_group(count: int, pool: str) -> None:
    """All projections of a direction go together, the strongest group comes first, and names are unique."""
    head = head_of(3, "linear", pool)
    names = direction_names(head, SELECTION)
    groups = part_groups(head, SELECTION, count)
    assert len(groups) == (12 if count in {0, 12, 99} else count)
    assert sorted(name for group in groups for name in group.directions) == sorted(set(names))
    assert len({group.name for group in groups}) == len(groups)
    weight = np.abs(head.arrays.weights["weight"])
    for group in groups:
        assert {names[column] for column in group.columns} == set(group.directions)
        assert len(group.columns) == len(group.directions) * (2 if pool == "both" else 1)
    sums = [weight[group.columns].sum() for group in groups]
    assert sums == sorted(sums, reverse=True)


def test_names_of_groups() -> None:
    """The two strongest directions, what they stand for, and how many others; random ones by number."""
    head = head_of(3, "linear")
    assert direction_names(head, SELECTION)[5:8] == ["1:45", "2:50", "2:51"]
    assert direction_names(head, SELECTION)[-1] == "2:#5"
    (group,) = part_groups(head, SELECTION, 1)
    first, second = group.directions[:2]
    assert group.name == f"{first}, {second} and 10 more"
    (group,) = part_groups(head, SELECTION, 1, {first: "lists"})
    assert group.name == f"{first} (lists), {second} and 10 more"


def test_dropped_directions_are_in_no_group() -> None:
    """What cannot change a score is not shown."""
    head = head_of(3, "linear")
    head.arrays.weights["weight"][:6] = 0
    fresh = RewardHead(head.arrays, (1, 2), "mean")
    names = [name for group in part_groups(fresh, SELECTION, 3) for name in group.directions]
    assert {name.split(":")[0] for name in names} == {"2"}
    head.arrays.weights["weight"][:] = 0
    assert part_groups(RewardHead(head.arrays, (1, 2), "mean"), SELECTION, 3) == ()


def test_parts_shrink_with_a_clipped_score() -> None:
    """3 clipped to 2 leaves two thirds of each part; a response that is too far has none."""
    scores, ood = np.array([3, 1, 1], np.float32), np.array([0.5, 0.5, 2], np.float32)
    rows = ({"intercept": 1.0, "a": 2.0}, {"intercept": 1.0, "a": 0.0}, {"intercept": 1.0, "a": 0.0})
    clipped = Rewards(scores, ood, (), "exact", rows).guarded(ScoreLimits(clip=2.0, abstain=1.0))
    assert clipped.parts[0] == pytest.approx({"intercept": 2 / 3, "a": 4 / 3})
    assert clipped.parts[1:] == (rows[1], None)
    assert [list(part.parts) for part in clipped.split([1, 2])] == [[clipped.parts[0]], [rows[1], None]]
