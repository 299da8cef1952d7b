"""Choosing latents for each side by one of several measures, and the random controls. Pure functions.

Axes: `d_sae` latents, `directions` chosen ones (`top_k` preferred, then `top_k` dispreferred), `d_in` width
of the residual stream. Every choice is repeatable: ties go to the larger difference, then to the lower index.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float32, Float64, Int8, Int64

from sparserm_cli.errors import UsageError
from sparserm_cli.stages.select import orthogonal as pursuit
from sparserm_cli.statistics.rates import Latents
from sparserm_cli.store.artifacts.frequency import Measures

By = Literal[
    "difference",
    "standardised",
    "z",
    "mcnemar",
    "mutual-information",
    "stability",
    "greedy",
    "forward",
    "length-controlled",
    "random-latents",
    "random-directions",
]
Rows = Callable[[Int64[np.ndarray, " latents"]], Float32[np.ndarray, "latents d_in"]]

MEASURES: tuple[str, ...] = get_args(By)
"""What `--by` takes; the last two are controls."""
RESAMPLES = 200
"""Bootstrap samples of `stability`."""
GREEDY_POOL = 8
"""`greedy` looks at this many times `top_k` latents a side, those of the largest difference."""
FORWARD_POOL = 2048
"""`forward` looks at this many latents a side, those of the largest difference, or at `top_k` if more. With
512 of some 2,300 a side it lost a point on TruthfulQA."""

_FIELDS = {
    "difference": "difference",
    "standardised": "standardised",
    "z": "z",
    "mcnemar": "mcnemar",
    "length-controlled": "length_controlled",
}


class Chosen(NamedTuple):
    """The chosen latents of one layer: preferred ones first, each side from the strongest on."""

    feature: Int64[np.ndarray, " directions"]
    """Latent, or -1 for a random direction."""
    side: Int8[np.ndarray, " directions"]
    """1 preferred, -1 dispreferred."""
    statistic: Float64[np.ndarray, " directions"]
    """The measure, positive for preferred; NaN for the controls."""


def choose(
    measures: Measures,
    fold_total: Int64[np.ndarray, "folds 2"],
    top_k: int,
    by: str,
    *,
    rows: Rows,
    of_pairs: Callable[[], pursuit.Moments],
    seed: int = 0,
    where: str = "this layer",
) -> Chosen:
    """Choose `top_k` latents a side.

    Args:
        measures: of one layer.
        fold_total: tokens (or responses) in each random group of prompts, for `stability`.
        top_k: latents a side.
        by: one of MEASURES.
        rows: gives decoder rows, for `greedy` and `forward`.
        of_pairs: gives the moments of the pairs that select, for `forward`.
        seed: of the bootstrap and of the controls.
        where: the layer, for errors.

    Raises:
        UsageError: no such measure, or fewer than `top_k` latents speak for one of the sides.

    """
    if by not in MEASURES:
        raise UsageError("--by", f"one of {', '.join(MEASURES)}", repr(by), "correct the option")
    if by == "random-directions":
        return _control(np.full(2 * top_k, -1), top_k)
    if by == "random-latents":
        return _random_latents(measures, top_k, seed, where)
    if by in {"greedy", "forward"}:
        return _in_turn(measures, top_k, rows, where, of_pairs if by == "forward" else None)
    if by == "stability":
        statistic = _stability(measures, fold_total, top_k, seed)
        return _top(statistic, measures.difference, np.sign(measures.difference), top_k, where)
    if by == "mutual-information":
        side = np.sign(measures.z)
        return _top(measures.mutual_information * side, measures.difference, side, top_k, where)
    statistic = getattr(measures, _FIELDS[by])
    return _top(statistic, measures.difference, np.sign(statistic), top_k, where)


def random_directions(count: int, d_in: int, seed: int) -> Float32[np.ndarray, "directions d_in"]:
    """Return directions of norm 1, uniform on the sphere."""
    drawn = np.random.default_rng(seed).standard_normal((count, d_in))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def _top(statistic: Latents, difference: Latents, side: Latents, top_k: int, where: str) -> Chosen:
    """Choose the largest statistics of each side; `side` says which side a latent speaks for, 0 neither."""
    chosen = []
    for sign in (1, -1):
        able = np.flatnonzero(side == sign)
        _require(len(able), top_k, sign, where)
        order = np.lexsort((-np.abs(difference[able]), -np.abs(statistic[able])))
        chosen.append(able[order[:top_k]])
    feature = np.concatenate(chosen)
    return Chosen(feature, _sides(top_k), statistic[feature])


def _in_turn(
    measures: Measures, top_k: int, rows: Rows, where: str, of_pairs: Callable[[], pursuit.Moments] | None
) -> Chosen:
    """Choose one latent after the other: by `forward` with moments of the pairs, by `greedy` without."""
    pools = []
    for sign in (1, -1):
        able = np.flatnonzero(measures.difference * sign > 0)
        _require(len(able), top_k, sign, where)
        most = max(FORWARD_POOL, top_k) if of_pairs else GREEDY_POOL * top_k
        pools.append(able[np.lexsort((able, -np.abs(measures.difference[able])))[:most]])
    pool = np.concatenate(pools)
    difference = measures.difference[pool]
    if of_pairs:
        place, gain = pursuit.forward(rows(pool), difference, top_k, of_pairs())
        return Chosen(pool[place], _sides(top_k), gain * _sides(top_k))
    place = pursuit.greedy(rows(pool), difference, top_k).place
    return Chosen(pool[place], _sides(top_k), difference[place])


def _stability(
    measures: Measures, fold_total: Int64[np.ndarray, "folds 2"], top_k: int, seed: int
) -> Latents:
    """Return the share of bootstrap samples in which a latent is among the top of its side, signed.

    A sample draws the random groups of prompts with replacement, so that responses to one prompt stay
    together (Meinshausen and Buhlmann 2010 choose by such shares).
    """
    total = fold_total.T.astype(np.float64)  # side, fold
    fired = measures.fold_rate.astype(np.float64) * total[:, None, :]
    folds = total.shape[1]
    draws = np.random.default_rng(seed).multinomial(folds, np.full(folds, 1 / folds), RESAMPLES)
    times = np.zeros((2, len(measures.difference)))
    for draw in draws.astype(np.float64):
        rate = (fired @ draw) / np.maximum(total @ draw, 1.0)[:, None]
        difference = rate[0] - rate[1]
        for number, signed in enumerate((difference, -difference)):
            ahead = np.argpartition(-signed, min(top_k, len(signed)) - 1)[:top_k]
            times[number, ahead[signed[ahead] > 0]] += 1
    share: Latents = np.where(measures.difference >= 0, times[0], -times[1]) / RESAMPLES
    return share


def _random_latents(measures: Measures, top_k: int, seed: int, where: str) -> Chosen:
    """Choose latents that fire at all, whatever they say."""
    live = np.flatnonzero(measures.responses.sum(axis=0))
    if len(live) < 2 * top_k:
        found = f"{len(live)} that fire in {where}"
        raise UsageError("--top-k", f"{2 * top_k} latents", found, "lower --top-k or use more data")
    return _control(np.random.default_rng(seed).choice(live, 2 * top_k, replace=False), top_k)


def _control(feature: Int64[np.ndarray, " directions"], top_k: int) -> Chosen:
    """Return a choice that no measure has made."""
    return Chosen(feature, _sides(top_k), np.full(2 * top_k, np.nan))


def _require(able: int, top_k: int, sign: int, where: str) -> None:
    """Raise UsageError unless `top_k` latents speak for a side."""
    if able < top_k:
        speaks = "chosen" if sign == 1 else "rejected"
        found = f"{able} that speak for {speaks} in {where}"
        raise UsageError("--top-k", f"{top_k} latents a side", found, "lower --top-k or use more data")


def _sides(top_k: int) -> Int8[np.ndarray, " directions"]:
    """Return the sides of a choice: preferred first."""
    return np.repeat(np.array([1, -1], np.int8), top_k)
