"""Intervals of accuracies over prompts, and the paired comparison of two scorers.

Axes: `pairs` of a chosen and a rejected response, each with a margin (chosen score less rejected score) and
the group of its prompt. Pairs of one prompt are not independent, so whole prompts are drawn (Efron and
Tibshirani 1993, chapter 8.6). A tie is wrong, as in RM-Bench, and is counted.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Integer, Shaped
from scipy.special import ndtr

from sparserm_cli.statistics.rates import wilson_interval

SAMPLES = 2000
"""Bootstrap samples of an interval; the seed is fixed, so figures repeat."""
_CELLS = 1 << 22  # draws held at a time


class PairAccuracy(NamedTuple):
    """How often a scorer puts the chosen response first.

    Fields:
        accuracy: share of pairs with a positive margin; NaN without pairs.
        low: lower end of the 95 % interval over prompts.
        high: upper end of the same interval.
        pairs: number of pairs.
        prompts: number of prompts they belong to.
        ties: pairs whose margin is 0 (or not a number), which count as wrong.
    """

    accuracy: float
    low: float
    high: float
    pairs: int
    prompts: int
    ties: int


class Difference(NamedTuple):
    """Accuracy of one scorer less that of another on the same pairs.

    Fields:
        value: the difference.
        low: lower end of its 95 % interval over prompts.
        high: upper end of the same interval.
        p: two-sided p-value of no difference, from the spread between prompts.
    """

    value: float
    low: float
    high: float
    p: float


def pair_accuracy(
    margins: Float64[np.ndarray, " pairs"], groups: Integer[np.ndarray, " pairs"]
) -> PairAccuracy:
    """Return the accuracy of a scorer.

    Args:
        margins: chosen score less rejected score of each pair.
        groups: prompt of each pair.

    """
    right = margins > 0
    ties = int(np.sum(~right & ~(margins < 0)))
    if not len(margins):
        return PairAccuracy(float("nan"), 0.0, 1.0, 0, 0, 0)
    sums, counts = _by_prompt(right.astype(np.float64), groups)
    value = float(right.mean())
    if len(counts) < 2 or sums.sum() in {0.0, counts.sum()}:  # nothing varies between the prompts
        low, high = (
            float(end[0]) for end in wilson_interval(np.array([value]), np.array([float(len(counts))]))
        )
    else:
        low, high = _interval(sums, counts)
    return PairAccuracy(value, low, high, len(margins), len(counts), ties)


def difference(
    margins_a: Float64[np.ndarray, " pairs"],
    margins_b: Float64[np.ndarray, " pairs"],
    groups: Integer[np.ndarray, " pairs"],
) -> Difference:
    """Compare two scorers pair by pair.

    Args:
        margins_a: margins of the first scorer.
        margins_b: margins of the second scorer on the same pairs.
        groups: prompt of each pair.

    Returns:
        the first less the second; zero with an interval of 0 to 0 if they never disagree.

    """
    gain = (margins_a > 0).astype(np.float64) - (margins_b > 0)
    if not gain.any():
        return Difference(0.0, 0.0, 0.0, 1.0)
    sums, counts = _by_prompt(gain, groups)
    value = float(gain.mean())
    low, high = _interval(sums, counts)
    spread = float(np.sqrt(np.sum((sums - value * counts) ** 2)))
    p = 2.0 * float(ndtr(-abs(float(sums.sum())) / spread)) if spread > 0 else 1.0
    return Difference(value, low, high, p)


def interval_of_means(parts: Sequence[Float64[np.ndarray, " _"]]) -> tuple[float, float]:
    """Return the 95 % interval of the plain mean of the parts' means, over prompts drawn part by part.

    Args:
        parts: one value per prompt, for each part of a benchmark.

    """
    if all(len(part) == 0 or part.min() == part.max() for part in parts):  # nothing varies
        value, count = np.mean([part.mean() for part in parts]), sum(map(len, parts))
        low, high = wilson_interval(np.array([value]), np.array([float(count)]))
        return float(low[0]), float(high[0])
    generator = np.random.default_rng(0)
    total = np.zeros(SAMPLES)
    for part in parts:
        drawn = generator.multinomial(len(part), np.full(len(part), 1 / len(part)), SAMPLES)
        total += drawn @ part / len(part)
    low, high = np.quantile(total / len(parts), [0.025, 0.975])
    return float(low), float(high)


def fold_spread(right: Shaped[np.ndarray, " pairs"], fold: Integer[np.ndarray, " pairs"]) -> float:
    """Return the standard deviation of the accuracy between folds (with n - 1)."""
    means = [float(np.mean(right[fold == number])) for number in np.unique(fold)]
    return float(np.std(means, ddof=1)) if len(means) > 1 else float("nan")


def _by_prompt(
    values: Float64[np.ndarray, " pairs"], groups: Integer[np.ndarray, " pairs"]
) -> tuple[Float64[np.ndarray, " prompts"], Float64[np.ndarray, " prompts"]]:
    """Return the sum of the values and the number of pairs of each prompt."""
    _, prompt = np.unique(groups, return_inverse=True)
    prompt = prompt.reshape(-1)
    return np.bincount(prompt, values), np.bincount(prompt).astype(np.float64)


def _interval(
    sums: Float64[np.ndarray, " prompts"], counts: Float64[np.ndarray, " prompts"]
) -> tuple[float, float]:
    """Return the 2.5 % and 97.5 % quantiles of the ratio of sums over samples of prompts."""
    generator, prompts = np.random.default_rng(0), len(counts)
    ratios = []
    step = max(1, _CELLS // prompts)
    for first in range(0, SAMPLES, step):
        drawn = generator.integers(0, prompts, (min(step, SAMPLES - first), prompts))
        ratios.append(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    low, high = np.quantile(np.concatenate(ratios), [0.025, 0.975])
    return float(low), float(high)
