"""Which words tell two sets of documents apart, and how well a test tells two sets of contexts apart.

Axes: `words` of a vocabulary.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from sparserm_cli.statistics.rates import wilson_interval


def log_odds_z(
    counts: Int64[np.ndarray, " words"],
    other_counts: Int64[np.ndarray, " words"],
    prior: Float64[np.ndarray, " words"],
) -> Float64[np.ndarray, " words"]:
    """Return the z-score of the log-odds ratio of each word between two sets of documents.

    The log-odds ratio with an informative Dirichlet prior of Monroe, Colaresi and Quinn 2008 ("Fightin'
    Words", Political Analysis 16(4), equations 15, 20 and 22): with counts y and z of totals n and m and a
    prior a of total A it is log((y + a) / (n + A - y - a)) - log((z + a) / (m + A - z - a)), and its variance
    is about 1 / (y + a) + 1 / (z + a).

    Args:
        counts: number of documents of the first set that hold each word.
        other_counts: the same for the second set.
        prior: pseudo-counts of each word, all above 0.

    Returns:
        positive for words that are more frequent in the first set than the prior lets one expect.

    """
    first, second, total = counts + prior, other_counts + prior, float(prior.sum())
    odds = first / (counts.sum() + total - first)
    other_odds = second / (other_counts.sum() + total - second)
    return (np.log(odds) - np.log(other_odds)) / np.sqrt(1 / first + 1 / second)


class BalancedAccuracy(NamedTuple):
    """How well a test recognises the contexts of one set among those of another.

    Fields:
        value: mean of the shares recognised in either set; 0.5 is chance.
        low: lower end of the 95 % interval.
        high: upper end of the same interval.
        firing: number of contexts in which the latent fires.
        firing_right: number of those that were recognised.
        others: number of contexts in which it does not fire.
        others_right: number of those that were recognised.
    """

    value: float
    low: float
    high: float
    firing: int
    firing_right: int
    others: int
    others_right: int

    @property
    def beats_chance(self) -> bool:
        """Whether the whole interval lies above 0.5."""
        return self.low > 0.5


def balanced_accuracy(firing_right: int, firing: int, others_right: int, others: int) -> BalancedAccuracy:
    """Return the balanced accuracy of a test with its 95 % interval.

    The interval joins Wilson's intervals of the two shares by the square-and-add method (Newcombe 1998,
    Statistics in Medicine 17, method 10, here for half the sum of two shares), so that it is no point where
    every context is right. Without contexts of a set its share is taken as 0.5 with the interval 0 to 1.

    Args:
        firing_right: number of contexts with firing that were recognised.
        firing: number of such contexts, each of another prompt.
        others_right: number of contexts without firing that were recognised.
        others: number of such contexts, each of another prompt.

    """
    n = np.array([firing, others], np.float64)
    rate = np.where(n > 0, np.array([firing_right, others_right]) / np.maximum(n, 1.0), 0.5)
    low, high = wilson_interval(rate, n)
    value = float(rate.mean())
    down = float(np.sqrt(((rate - low) ** 2).sum())) / 2
    up = float(np.sqrt(((high - rate) ** 2).sum())) / 2
    ends = max(0.0, value - down), min(1.0, value + up)
    return BalancedAccuracy(value, *ends, firing, firing_right, others, others_right)
