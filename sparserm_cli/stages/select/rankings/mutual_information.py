"""Ranking by the mutual information of firing on a response and the response's side."""

import numpy as np

from sparserm_cli.stages.select.rankings.base import Candidates, Chosen, top


def mutual_information(candidates: Candidates) -> Chosen:
    """Choose the latents that tell most about the side; the sign of z says which side each speaks for."""
    side = np.sign(candidates.measures.z)
    return top(candidates, candidates.measures.mutual_information * side, side)
