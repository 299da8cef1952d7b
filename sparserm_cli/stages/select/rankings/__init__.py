"""Rankings of latents, one module per kind, in one table: `select --by` takes its names."""

from sparserm_cli.errors import UsageError
from sparserm_cli.stages.select.rankings.base import Candidates, Chosen, Ranking
from sparserm_cli.stages.select.rankings.columns import by_column
from sparserm_cli.stages.select.rankings.controls import random_directions, random_latents
from sparserm_cli.stages.select.rankings.mutual_information import mutual_information
from sparserm_cli.stages.select.rankings.one_by_one import forward, greedy
from sparserm_cli.stages.select.rankings.stability import stability

__all__ = ["RANKINGS", "Candidates", "Chosen", "choose"]

RANKINGS: dict[str, Ranking] = {
    "difference": by_column("difference"),
    "standardised": by_column("standardised"),
    "z": by_column("z"),
    "mcnemar": by_column("mcnemar"),
    "mutual-information": mutual_information,
    "stability": stability,
    "greedy": greedy,
    "forward": forward,
    "length-controlled": by_column("length_controlled"),
    "random-latents": random_latents,
    "random-directions": random_directions,
}
"""Name to ranking; the last two are controls. The names are the choices of `--by` in `config/pipeline.py`."""


def choose(candidates: Candidates, by: str) -> Chosen:
    """Choose `top_k` latents per side by one of RANKINGS.

    Raises:
        UsageError: there is no such ranking, or fewer than `top_k` latents speak for one of the sides.

    """
    if by not in RANKINGS:
        raise UsageError("--by", f"one of {', '.join(RANKINGS)}", repr(by), "correct the option")
    return RANKINGS[by](candidates)
