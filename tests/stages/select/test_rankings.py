"""Choosing latents: each measure by hand, the greedy choice against its definition, the controls."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from sparserm_cli.errors import UsageError
from sparserm_cli.models.head.baselines import random_directions
from sparserm_cli.stages.select import rankings as selection
from sparserm_cli.stages.select.orthogonal import RIDGE
from sparserm_cli.stages.select.rankings import RANKINGS, Candidates, Chosen
from sparserm_cli.stages.select.rankings.base import top
from sparserm_cli.statistics.pair_moments import Moments, moments
from sparserm_cli.store.artifacts.frequency import LatentStatistics

FOLDS = np.full((4, 2), 100)


def measures(difference: list[float] | np.ndarray, **fields: object) -> LatentStatistics:
    """Make measures in which only some fields matter; rates are 0.5 plus and minus half the difference."""
    difference = np.array(difference, np.float64)
    rate = np.stack([0.5 + difference / 2, 0.5 - difference / 2])
    values = {
        "rate": rate,
        "low": rate,
        "high": rate,
        "responses": np.ones((2, len(difference)), np.int64),
        "fold_rate": np.repeat(rate[..., None], 4, axis=2).astype(np.float32),
        **dict.fromkeys(LatentStatistics._fields[5:], difference),
        **fields,
    }
    return LatentStatistics(**values)


def no_rows(_latents: np.ndarray) -> np.ndarray:
    """Stand for decoder rows that must not be asked for."""
    raise AssertionError


def no_moments() -> Moments:
    """Stand for moments that must not be asked for."""
    raise AssertionError


def choose(
    made: LatentStatistics,
    fold_total: np.ndarray,
    top_k: int,
    by: str,
    *,
    of_pairs: Callable[[], Moments] = no_moments,
    **options: Any,
) -> Chosen:
    """Choose without moments of the pairs where none are given."""
    options = {"seed": 0, "where": "this layer", **options}
    return selection.choose(Candidates(made, fold_total, top_k, of_pairs=of_pairs, **options), by)


def test_difference_by_hand():
    """The two largest and the two smallest, each side from the strongest on."""
    chosen = choose(measures([0.1, -0.4, 0.3, -0.2, 0.2, 0.0]), FOLDS, 2, "difference", rows=no_rows)
    assert chosen.feature.tolist() == [2, 4, 1, 3]
    assert chosen.side.tolist() == [1, 1, -1, -1]
    assert chosen.statistic.tolist() == [0.3, 0.2, -0.4, -0.2]


@pytest.mark.parametrize(
    ("by", "field"),
    [
        ("standardised", "standardised"),
        ("z", "z"),
        ("mcnemar", "mcnemar"),
        ("length-controlled", "length_controlled"),
    ],
)
def test_other_measures_rank_by_their_own_field(by: str, field: str):
    """Latent 1 is first by the measure although the difference puts it last, even on the other side."""
    chosen = choose(
        measures([0.3, -0.1, -0.2, 0.05], **{field: np.array([1.0, 5.0, -2.0, -9.0])}),
        FOLDS,
        1,
        by,
        rows=no_rows,
    )
    assert chosen.feature.tolist() == [1, 3]
    assert chosen.statistic.tolist() == [5.0, -9.0]


def test_mutual_information_takes_its_side_from_z():
    """Information has no sign of its own."""
    made = measures(
        [0.1, 0.1, -0.1, -0.1],
        mutual_information=np.array([0.2, 0.5, 0.1, 0.4]),
        z=np.array([2.0, 3.0, -1.0, -3.0]),
    )
    chosen = choose(made, FOLDS, 1, "mutual-information", rows=no_rows)
    assert chosen.feature.tolist() == [1, 3]
    assert chosen.statistic.tolist() == [0.5, -0.4]


def test_ties_go_to_the_larger_difference_then_the_lower_index():
    """The choice never depends on how a sort breaks ties."""
    made = measures([0.1, 0.3, 0.3, -0.1, -0.1], z=np.array([2.0, 2.0, 2.0, -2.0, -2.0]))
    assert choose(made, FOLDS, 2, "z", rows=no_rows).feature.tolist() == [1, 2, 3, 4]


def test_stability_is_the_share_of_samples():
    """Latent 0 owes its difference to one of four groups of prompts, which 1 - (3/4)^4 of samples hold."""
    rate = np.full((2, 5, 4), 0.5, np.float32)
    rate[0, 0, 0] = 0.7  # mean 0.55: first by the difference
    rate[0, 1], rate[0, 2] = 0.54, 0.53
    rate[0, 3], rate[0, 4] = 0.40, 0.45
    made = measures((rate[0] - rate[1]).mean(axis=1).astype(np.float64), fold_rate=rate)
    assert choose(made, FOLDS, 2, "difference", rows=no_rows).feature.tolist() == [0, 1, 3, 4]
    chosen = choose(made, FOLDS, 2, "stability", rows=no_rows)
    assert chosen.feature.tolist() == [1, 0, 3, 4]
    assert chosen.statistic == pytest.approx([1.0, 1 - 0.75**4, -1.0, -1.0], abs=0.08)


def test_greedy_takes_no_direction_twice():
    """Latents 0 and 1 share their decoder row; the second is passed over for a weaker one that adds more."""
    rows = np.array([[1.0, 0, 0], [2.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, -1.0]], np.float32)
    made = measures([0.5, 0.4, 0.1, -0.3, -0.2])
    chosen = choose(made, FOLDS, 2, "greedy", rows=lambda latents: rows[latents])
    assert chosen.feature.tolist() == [0, 2, 3, 4]
    assert choose(made, FOLDS, 2, "difference", rows=no_rows).feature.tolist() == [0, 1, 3, 4]


def test_greedy_follows_its_definition():
    """Each pick has the largest difference times the norm of what is left of its row."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((60, 8)).astype(np.float32)
    made = measures(rng.uniform(-1, 1, 60))
    chosen = choose(made, FOLDS, 3, "greedy", rows=lambda latents: rows[latents])
    rest = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    picks, left = [], {1: 3, -1: 3}
    side = np.sign(made.difference)
    while any(left.values()):
        gain = np.abs(made.difference) * np.linalg.norm(rest, axis=1)
        gain[[n for n in range(60) if n in picks or left[int(side[n])] == 0]] = -1
        pick = int(np.argmax(gain))
        picks.append(pick)
        left[int(side[pick])] -= 1
        unit = rest[pick] / np.linalg.norm(rest[pick])
        rest = rest - np.outer(rest @ unit, unit)
    assert chosen.feature.tolist() == [n for n in picks if side[n] > 0] + [n for n in picks if side[n] < 0]


def test_greedy_with_more_directions_than_dimensions():
    """When nothing new is left the rest is filled up all the same."""
    rows = np.eye(2, dtype=np.float32)[[0, 1, 0, 1, 0, 1]]
    chosen = choose(measures([0.3, 0.2, 0.1, -0.1, -0.2, -0.3]), FOLDS, 3, "greedy", rows=lambda n: rows[n])
    assert sorted(chosen.feature.tolist()) == [0, 1, 2, 3, 4, 5]


def test_forward_by_hand():
    """Of two latents that say the same, the second adds nothing; what is rare but sure comes before the rest.

    The pairs differ by (2, 0, 0), (2, 0, 0), (0, 1, 0) and (0, 0, 0): the mean differences along the axes are
    1, 1/4 and 0, the second moments 2, 1/4 and 0. With the ridge r the gains are 1 / sqrt(2 + r) and
    1/4 / sqrt(1/4 + r).
    """
    vectors = np.zeros((8, 3), np.float32)
    vectors[[0, 2], 0], vectors[4, 1] = 2.0, 1.0
    pair_moments = moments(vectors, np.arange(8).reshape(-1, 2))
    assert pair_moments.mean.tolist() == [1.0, 0.25, 0.0]
    assert pair_moments.second.tolist() == [[2.0, 0, 0], [0, 0.25, 0], [0, 0, 0]]
    rows = np.array([[1, 0, 0], [3, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
    made = measures([0.1, 0.4, -0.1, -0.2])
    chosen = choose(
        made, FOLDS, 1, "forward", rows=lambda latents: rows[latents], of_pairs=lambda: pair_moments
    )
    assert chosen.feature.tolist() == [1, 2]
    ridge = RIDGE * 2.25 / 3
    assert chosen.statistic == pytest.approx([1 / (2 + ridge) ** 0.5, -0.25 / (0.25 + ridge) ** 0.5])


def test_forward_is_forward_regression():
    """Each pick is the one after which least squares on the picks leaves least of 1; sides are kept."""
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((30, 6)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    vectors = rng.standard_normal((200, 6)).astype(np.float32)
    pair_moments = moments(vectors, np.arange(200).reshape(-1, 2))
    metric = pair_moments.second + RIDGE * np.trace(pair_moments.second) / 6 * np.eye(6)
    made = measures(rng.uniform(-1, 1, 30))
    side = np.sign(made.difference)

    def explained(picks: list[int]) -> float:
        taken = rows[picks].astype(np.float64)
        return float(
            (taken @ pair_moments.mean) @ np.linalg.solve(taken @ metric @ taken.T, taken @ pair_moments.mean)
        )

    picks: list[int] = []
    for _ in range(4):
        free = [n for n in range(30) if n not in picks and sum(side[picks] == side[n]) < 2]
        picks.append(max(free, key=lambda n: explained([*picks, n])))
    chosen = choose(
        made, FOLDS, 2, "forward", rows=lambda latents: rows[latents], of_pairs=lambda: pair_moments
    )
    assert chosen.feature.tolist() == [n for n in picks if side[n] > 0] + [n for n in picks if side[n] < 0]
    assert (chosen.statistic * chosen.side > 0).all()


def test_random_latents_are_live_and_follow_the_seed():
    """A dead latent is never drawn."""
    responses = np.ones((2, 50), np.int64)
    responses[:, ::2] = 0
    made = measures(np.linspace(-1, 1, 50), responses=responses)
    first, again, other = (choose(made, FOLDS, 5, "random-latents", rows=no_rows, seed=s) for s in (1, 1, 2))
    assert (first.feature % 2 == 1).all()
    assert len(set(first.feature.tolist())) == 10
    assert np.array_equal(first.feature, again.feature)
    assert not np.array_equal(first.feature, other.feature)
    assert np.isnan(first.statistic).all()


def test_random_directions_have_norm_1():
    """The other control has no latents at all."""
    chosen = choose(measures([0.1, -0.1]), FOLDS, 3, "random-directions", rows=no_rows)
    assert chosen.feature.tolist() == [-1] * 6
    rows = random_directions(6, 7, seed=3)
    assert np.linalg.norm(rows, axis=1) == pytest.approx(np.ones(6), abs=1e-6)
    assert np.array_equal(rows, random_directions(6, 7, seed=3))


def test_too_few_latents():
    """The error says which side has how many."""
    with pytest.raises(UsageError) as caught:
        choose(measures([0.1, 0.2, -0.1]), FOLDS, 2, "difference", rows=no_rows, where="layer 14")
    assert str(caught.value) == (
        "--top-k: expected 2 latents per side, found 1 that speak for rejected in layer 14; "
        "lower --top-k or use more data"
    )


def test_too_few_live_latents_for_the_control():
    """The control needs as many as the choice it is compared with."""
    with pytest.raises(UsageError) as caught:
        choose(measures([0.1, -0.1]), FOLDS, 2, "random-latents", rows=no_rows, where="layer 3")
    assert caught.value.found == "2 that fire in layer 3"


def test_an_unknown_measure_lists_them_all():
    """A typing mistake shows what there is."""
    with pytest.raises(UsageError) as caught:
        choose(measures([0.1, -0.1]), FOLDS, 1, "diference", rows=no_rows)
    assert str(caught.value) == (
        "--by: expected one of difference, standardised, z, mcnemar, mutual-information, stability, greedy, "
        "forward, length-controlled, random-latents, random-directions, found 'diference'; correct the option"
    )


@pytest.mark.parametrize("by", RANKINGS)
def test_131_072_latents_take_less_than_2_seconds(by: str):
    """Every measure at the width of the widest public SAEs, 128 a side."""
    rng = np.random.default_rng(0)
    made = measures(rng.uniform(-1, 1, 131_072))
    rows = rng.standard_normal((4_096, 64)).astype(np.float32)
    known = moments(rows, np.arange(4_096).reshape(-1, 2))
    with threadpool_limits(1):  # threads that wait for one another count as work where the machine is busy
        begun = time.process_time()
        choose(made, FOLDS, 128, by, rows=lambda latents: rows[latents % 4_096], of_pairs=lambda: known)
        taken = time.process_time() - begun
    assert taken < 2.0


def test_one_more_ranking_is_one_function_and_one_entry(monkeypatch: pytest.MonkeyPatch):
    """A ranking by the share of responses on the chosen side is chosen by its name."""

    def by_rate(candidates: Candidates) -> Chosen:
        statistic = candidates.measures.rate[0] - 0.5
        return top(candidates, statistic, np.sign(statistic))

    monkeypatch.setitem(RANKINGS, "rate", by_rate)
    chosen = choose(measures([0.1, -0.4, 0.3, -0.2]), FOLDS, 1, "rate", rows=no_rows)
    assert chosen.feature.tolist() == [2, 1]
