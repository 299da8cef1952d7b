"""Fit a head of either kind."""

from collections.abc import Callable

from sparserm_cli.models.head.linear import fit_linear
from sparserm_cli.models.head.mlp import fit_mlp
from sparserm_cli.models.head.pair_data import Fitted, PairData


def fit_head(
    data: PairData,
    head: str,
    loss: str,
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Fitted:
    """Fit a head of either kind, linear or mlp; see `fit_linear` and `fit_mlp`."""
    if head == "linear":
        return fit_linear(data, loss, progress=progress)
    return fit_mlp(data, loss, seed=seed, progress=progress)
