"""Choosing latents for each side by one of several measures, and the random controls. Pure functions.

Axes: `d_sae` latents, `directions` chosen ones (`top_k` preferred, then `top_k` dispreferred), `d_in` width
of the residual stream. Every choice is repeatable: ties go to the larger difference, then to the lower index.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int8, Int64

from sparserm_cli.errors import UsageError
from sparserm_cli.store.frequency import Latents, Measures

By = Literal[
    "difference",
    "standardised",
    "z",
    "mcnemar",
    "mutual-information",
    "stability",
    "greedy",
    "length-controlled",
    "random-latents",
    "random-directions",
]
Rows = Callable[[Int64[np.ndarray, " latents"]], Float32[np.ndarray, "latents d_in"]]

MEASURES: tuple[str, ...] = get_args(By)
"""What `--by` takes; the last two are controls."""
RESAMPLES = 200
"""Bootstrap samples of `stability`."""
POOL = 8
"""`greedy` looks at this many times `top_k` latents a side, those of the largest difference."""

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
    seed: int = 0,
    where: str = "this layer",
) -> Chosen:
    """Choose `top_k` latents a side.

    Args:
        measures: of one layer.
        fold_total: tokens (or responses) in each random group of prompts, for `stability`.
        top_k: latents a side.
        by: one of MEASURES.
        rows: gives decoder rows, for `greedy`.
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
    if by == "greedy":
        return _greedy(measures.difference, top_k, rows, where)
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


def _greedy(difference: Latents, top_k: int, rows: Rows, where: str) -> Chosen:
    """Choose one latent after the other: the difference times what its direction adds to those before it.

    What it adds is the norm of its unit decoder row after projecting out the chosen rows, kept up to date by
    a Cholesky decomposition with pivoting (Golub and Van Loan, 4.2.8), so no row is chosen for what another
    one already says. Both sides share the chosen rows and are filled together.
    """
    pools = []
    for sign in (1, -1):
        able = np.flatnonzero(difference * sign > 0)
        _require(len(able), top_k, sign, where)
        pools.append(able[np.lexsort((able, -np.abs(difference[able])))[: POOL * top_k]])
    pool = np.concatenate(pools)
    unit = rows(pool).astype(np.float64)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
    side = np.sign(difference[pool])
    rest = np.ones(len(pool))  # squared norm of what each row adds
    factor = np.zeros((len(pool), 2 * top_k))
    taken: Bool[np.ndarray, " pool"] = np.zeros(len(pool), bool)
    picks: dict[int, list[int]] = {1: [], -1: []}
    for step in range(2 * top_k):
        full = [sign for sign, picked in picks.items() if len(picked) == top_k]
        gain = np.abs(difference[pool]) * np.sqrt(np.maximum(rest, 0.0))
        gain[taken | np.isin(side, full)] = -1.0
        pick = int(np.argmax(gain))
        picks[int(side[pick])].append(pick)
        taken[pick] = True
        if rest[pick] > 1e-12:
            column = unit @ unit[pick] - factor[:, :step] @ factor[pick, :step]
            factor[:, step] = column / np.sqrt(rest[pick])
            rest -= factor[:, step] ** 2
    feature = pool[picks[1] + picks[-1]]
    return Chosen(feature, _sides(top_k), difference[feature])


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
