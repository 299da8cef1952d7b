"""Ranking by how often a latent is among the strongest in bootstrap samples of the prompts."""

import numpy as np

from sparserm_cli.stages.select.rankings.base import Candidates, Chosen, top

RESAMPLES = 200
"""Number of bootstrap samples."""


def stability(candidates: Candidates) -> Chosen:
    """Choose by the share of bootstrap samples in which a latent is among the strongest of its side.

    A sample draws the random groups of prompts with replacement, so that responses to one prompt stay
    together. Meinshausen and Buhlmann (2010) select by such shares.
    """
    measures, top_k = candidates.measures, candidates.top_k
    total = candidates.fold_total.T.astype(np.float64)  # side, fold
    fired = measures.fold_rate.astype(np.float64) * total[:, None, :]
    folds = total.shape[1]
    draws = np.random.default_rng(candidates.seed).multinomial(folds, np.full(folds, 1 / folds), RESAMPLES)
    times = np.zeros((2, len(measures.difference)))
    for draw in draws.astype(np.float64):
        rate = (fired @ draw) / np.maximum(total @ draw, 1.0)[:, None]
        difference = rate[0] - rate[1]
        for number, signed in enumerate((difference, -difference)):
            ahead = np.argpartition(-signed, min(top_k, len(signed)) - 1)[:top_k]
            times[number, ahead[signed[ahead] > 0]] += 1
    share = np.where(measures.difference >= 0, times[0], -times[1]) / RESAMPLES
    return top(candidates, share, np.sign(measures.difference))
