"""Scores of the stored pairs: the same in any units, and the responses at the ends of directions."""

from pathlib import Path

import numpy as np
import pytest
from helpers import planted_run as planted

from sparserm_cli.analysis.report.content.stored_scores import (
    EXTREMES,
    PairScores,
    StoredScores,
    most_wrong,
    pair_scores,
    stored_scores,
)
from sparserm_cli.models.head.reward_head import RewardHead
from sparserm_cli.store.artifacts.head_arrays import HeadArrays
from sparserm_cli.store.capture.artifact import capture_path
from sparserm_cli.store.capture.reader import ActivationsReader


def quiet(_done: int, _total: int) -> None:
    """No progress."""


def head(pool: str = "mean") -> RewardHead:
    """Give a random linear head on three directions of block 3."""
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((3, planted.D_IN)).astype(np.float32)
    count = 6 if pool == "both" else 3
    mean, std, weight = (rng.uniform(0.5, 1.5, count).astype(np.float32) for _ in range(3))
    weights = {"weight": weight, "bias": np.zeros(1, np.float32)}
    return RewardHead(HeadArrays(mean, std, weights, {3: rows}), (3,), pool)


def scored(run: Path, pool: str = "mean", **options: int) -> tuple[ActivationsReader, StoredScores]:
    """Plant a run and score it."""
    capture = planted.plant(run, prompts=30, **options).capture
    return capture, stored_scores(capture, head(pool), quiet)


@pytest.mark.parametrize("pool", ["mean", "both"])
def test_scores_are_those_of_the_head_on_all_vectors(pool: str, tmp_path: Path) -> None:
    """Unit by unit or all at once."""
    capture, stored = scored(tmp_path, pool, unit_tokens=100)
    assert len(capture.units) > 1
    vectors = {3: {name: capture.pooled(3, name) for name in ("mean", "last")}}
    np.testing.assert_allclose(stored.scores, head(pool)(vectors), rtol=1e-5, atol=1e-5)


def test_ends_of_directions_are_the_extreme_projections(tmp_path: Path) -> None:
    """Against sorting all projections."""
    capture, stored = scored(tmp_path)
    x = head().standardised({3: {"mean": capture.pooled(3, "mean")}}).numpy()
    order = np.argsort(x, axis=0)
    np.testing.assert_array_equal(stored.lowest, order[:EXTREMES])
    np.testing.assert_array_equal(stored.highest, order[::-1][:EXTREMES])
    np.testing.assert_allclose(stored.highest_at, np.take_along_axis(x, stored.highest, axis=0), atol=1e-5)
    np.testing.assert_allclose(stored.lowest_at, np.take_along_axis(x, stored.lowest, axis=0), atol=1e-5)


def test_nothing_depends_on_the_units(tmp_path: Path) -> None:
    """Many small units or one large one."""
    (few, whole), (many, other) = (scored(tmp_path / str(size), unit_tokens=size) for size in (10_000, 40))
    assert len(few.units) < len(many.units)
    # The planted units differ in the order of nothing, so numbers of responses are comparable.
    for name in ("highest", "lowest"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(other, name))
    np.testing.assert_allclose(whole.scores, other.scores, atol=1e-5)


def test_rejected_responses_have_no_score_and_no_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NaN vectors stay out of pairs and ends."""
    capture = planted.plant(tmp_path, prompts=30).capture
    read = ActivationsReader.iter_pooled

    def with_gap(self: ActivationsReader, layer: int, name: str) -> object:
        for start, block in read(self, layer, name):
            if start == 0:
                block[1] = np.nan
            yield start, block

    monkeypatch.setattr(ActivationsReader, "iter_pooled", with_gap)
    stored = stored_scores(capture, head(), quiet)
    assert np.flatnonzero(np.isnan(stored.scores)).tolist() == [1]
    assert 1 not in stored.highest
    assert 1 not in stored.lowest
    pairs = pair_scores(capture, stored.scores)
    assert len(pairs.row) == 29
    assert np.isfinite(pairs.margin).all()


def test_fewer_responses_than_places_leave_gaps(tmp_path: Path) -> None:
    """Two responses: the third place is -1."""
    capture = planted.plant(tmp_path, prompts=1).capture
    stored = stored_scores(capture, head(), quiet)
    assert (stored.highest[:2] >= 0).all()
    assert (stored.highest[2] == -1).all()


def test_pairs_know_margin_length_and_prompt(tmp_path: Path) -> None:
    """By hand for every pair."""
    capture, stored = scored(tmp_path, responses=3)
    pairs = pair_scores(capture, stored.scores)
    assert len(pairs.row) == 60
    for number in range(len(pairs.row)):
        chosen, rejected = pairs.chosen[number], pairs.rejected[number]
        lengths = capture.response_lengths
        assert pairs.length[number] == int(lengths[chosen]) - int(lengths[rejected])
        assert pairs.margin[number] == float(stored.scores[chosen]) - float(stored.scores[rejected])
        assert pairs.group[number] == capture.response_group()[chosen]


def test_most_wrong_pairs_are_the_lowest_margins_one_a_prompt(tmp_path: Path) -> None:
    """Two pairs a prompt: only its worse one is named, right ones never."""
    capture = ActivationsReader(capture_path(planted.plant(tmp_path, prompts=4, responses=3).run))
    pairs = pair_scores(capture, np.zeros(12, np.float32))
    margins = np.array([-1.0, -3, 2, 5, -2, -2.5, 0, -0.5])
    assert most_wrong(capture, pairs._replace(margin=margins), 10).tolist() == [1, 5, 7]
    assert most_wrong(capture, pairs._replace(margin=margins), 2).tolist() == [1, 5]
    assert isinstance(pairs, PairScores)
