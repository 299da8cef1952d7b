"""Fitting a linear reward head on pairs of standardised projections."""

from collections.abc import Callable

import numpy as np

from sparserm_cli.models.head.fits.penalty import choose_penalty, solved
from sparserm_cli.models.head.heads import centred
from sparserm_cli.models.head.pair_data import Fitted, PairData


def fit_linear(
    data: PairData, loss: str, *, seed: int = 0, progress: Callable[[int, int], None] | None = None
) -> Fitted:
    """Fit a linear head: a convex problem, solved for a path of penalties by L-BFGS.

    Geometry and strength of the penalty are chosen by `choose_penalty`. With them the head is fitted on the
    training pairs, to be judged on the validation pairs, and then on all pairs.

    Args:
        data: projections and pairs.
        loss: margin, bt or bce.
        seed: not used, since nothing here is random; every fit of a head takes one.
        progress: called with penalties tried and penalties in all.

    """
    del seed
    penalty = choose_penalty(data, loss, progress)
    validated = solved(data, penalty, loss, training_only=True)
    facts = penalty.facts()
    if data.validation.any():
        facts["validation_loss"] = penalty.loss
    to = penalty.coordinates.to.astype(np.float64)
    final, before = (
        centred(data, {"weight": (to @ solution[:-1]).astype(np.float32)})
        for solution in (solved(data, penalty, loss), validated)
    )
    return Fitted(final, before, facts)
