"""Controls, which choose without looking at a label and which every ranking has to beat."""

import numpy as np
from jaxtyping import Int64

from sparserm_cli.errors import UsageError
from sparserm_cli.stages.select.rankings.base import Candidates, Chosen, sides


def random_latents(candidates: Candidates) -> Chosen:
    """Choose at random among the latents that fire at all, whichever side they speak for."""
    live = np.flatnonzero(candidates.measures.responses.sum(axis=0))
    count = 2 * candidates.top_k
    if len(live) < count:
        found = f"{len(live)} that fire in {candidates.where}"
        raise UsageError("--top-k", f"{count} latents", found, "lower --top-k or use more data")
    return _control(np.random.default_rng(candidates.seed).choice(live, count, replace=False), candidates)


def random_directions(candidates: Candidates) -> Chosen:
    """Choose no latent; `select` draws random directions of norm 1 instead."""
    return _control(np.full(2 * candidates.top_k, -1), candidates)


def _control(feature: Int64[np.ndarray, " directions"], candidates: Candidates) -> Chosen:
    """Return a choice without a statistic."""
    return Chosen(feature, sides(candidates.top_k), np.full(2 * candidates.top_k, np.nan))
