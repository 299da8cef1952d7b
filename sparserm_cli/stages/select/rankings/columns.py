"""Rankings by one column of the frequency table, whose sign says which side a latent speaks for."""

import numpy as np

from sparserm_cli.stages.select.rankings.base import Candidates, Chosen, Ranking, top


def by_column(name: str) -> Ranking:
    """Return the ranking by a field of `LatentStatistics`."""

    def rank(candidates: Candidates) -> Chosen:
        statistic = getattr(candidates.measures, name)
        return top(candidates, statistic, np.sign(statistic))

    return rank
