"""Ranking by the mutual information between firing on a response and the side of the response."""

import numpy as np

from sparserm_cli.stages.select.rankings.base import Candidates, Chosen, top


def mutual_information(candidates: Candidates) -> Chosen:
    """Choose the latents with the most information about the side; the sign of z is the side of each."""
    side = np.sign(candidates.measures.z)
    return top(candidates, candidates.measures.mutual_information * side, side)
