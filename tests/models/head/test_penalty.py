"""The geometry and the strength of the penalty: by hand, on planted signals, and what judges them."""

from dataclasses import replace

import numpy as np
import pytest
from models.head.test_fit import planted

from sparserm_cli.models.head.fits import penalty as penalties
from sparserm_cli.models.head.fits.penalty import WHITENINGS, bases, choose_penalty, solved
from sparserm_cli.models.head.heads import fit_head
from sparserm_cli.models.head.pair_data import PairData


def test_whitening_takes_the_components_apart():
    """In the coordinates of the basis training responses are uncorrelated, strong components less strong."""
    data = planted(p=4)
    mixed = data.x @ np.array([[3, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0.9], [0, 0, 0, 0.2]], np.float32)
    (half,) = bases(replace(data, x=mixed), (0.5,))
    rows = np.unique(data.train_pairs)
    moments = (half.z[rows].T @ half.z[rows] / len(rows)).numpy()
    assert moments - np.diag(np.diag(moments)) == pytest.approx(np.zeros((4, 4)), abs=1e-3)
    before = np.linalg.eigvalsh(mixed[rows].T @ mixed[rows])
    assert np.diag(moments).max() / np.diag(moments).min() < np.sqrt(before[-1] / before[0]) * 1.1


def test_without_whitening_the_coordinates_are_turned_only():
    """Lengths stay, so that the penalty is that of ridge regression."""
    data = planted(p=4)
    (plain,) = bases(data, (0.0,))
    assert plain.to.T @ plain.to == pytest.approx(np.eye(4), abs=1e-5)
    assert plain.z.numpy() == pytest.approx(data.x @ plain.to, abs=1e-5)


def spread(scales: np.ndarray) -> PairData:
    """Plant the signal in projection 0, and stretch each projection."""
    data = planted(300, len(scales), noise=0.5)
    return replace(data, x=data.x * scales.astype(np.float32))


def test_the_geometry_follows_where_the_signal_lies():
    """A signal in the strongest component is found by ridge regression, one in the weakest by whitening."""
    strong, weak = np.ones(40), np.full(40, 6.0)
    strong[0], weak[0] = 6.0, 1.0
    first, second = (choose_penalty(spread(scales), "bt") for scales in (strong, weak))
    assert first.whitening < second.whitening


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_every_head_records_its_penalty(head: str):
    """Whitening and strength stand among the facts of a fit."""
    facts = fit_head(planted(60), head, "bt").facts
    assert facts["whitening"] in WHITENINGS
    assert facts["l2"] in penalties.STRENGTHS


def test_the_validation_pairs_judge():
    """The recorded loss is that of the validation pairs by the head that was fitted on the others."""
    data = planted(200, noise=0.3)
    penalty = choose_penalty(data, "bt")
    solution = solved(data, penalty, "bt", training_only=True)
    scores = penalty.coordinates.z.numpy() @ solution[:-1]
    margins = (scores[data.pairs[:, 0]] - scores[data.pairs[:, 1]])[data.validation]
    assert penalty.loss == pytest.approx(np.log1p(np.exp(-margins)).mean(), abs=1e-5)


@pytest.mark.parametrize("loss", ["margin", "bt", "bce"])
def test_another_geometry_must_win_by_more_than_its_standard_error(loss: str):
    """Copies of the judging pairs under the same prompts prove nothing more."""
    weak = np.full(40, 6.0)
    weak[0] = 1.0
    data = replace(spread(weak), groups=np.arange(300, dtype=np.uint64))
    few = np.flatnonzero(data.validation)[:3]
    kept = np.concatenate([np.flatnonzero(~data.validation), few])
    fields = ("pairs", "validation", "weight", "groups")
    small = replace(data, **{name: getattr(data, name)[kept] for name in fields})
    copies = np.concatenate([np.arange(len(kept)), np.repeat(np.arange(len(kept) - 3, len(kept)), 50)])
    copied = replace(small, **{name: getattr(small, name)[copies] for name in fields})
    first, second = (choose_penalty(pairs, loss) for pairs in (small, copied))
    assert (first.whitening, first.strength) == (second.whitening, second.strength)


def test_without_validation_pairs_ridge_regression_is_taken():
    """Nothing can judge, neither with no validation pairs nor with such as weigh nothing."""
    data = planted(20)
    weight = np.where(data.validation, 0.0, 1.0).astype(np.float32)
    for pairs in (planted(20, validation=0.0), replace(data, weight=weight)):
        penalty = choose_penalty(pairs, "bt")
        assert (penalty.whitening, penalty.strength) == (0.0, pytest.approx(10**-1.5))
        assert np.isnan(penalty.loss)


@pytest.mark.parametrize("pairs", [2, 5, 20])
def test_a_few_pairs_are_enough_to_choose_a_penalty(pairs: int):
    """A single validation pair chooses a strength and leaves ridge regression in place."""
    data = replace(planted(pairs), validation=np.arange(pairs) == 0)
    penalty = choose_penalty(data, "bt")
    assert penalty.strength in penalties.STRENGTHS
    assert np.isfinite(penalty.loss)
    assert penalty.whitening == 0.0
