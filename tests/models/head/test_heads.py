"""The table of heads: each kind scores as its formula says, and one more is one entry."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sparserm_cli.models.head import heads
from sparserm_cli.models.head.attribution import method_of
from sparserm_cli.models.head.heads import HEADS, HeadKind, fit_head, kind_of, scores_of
from sparserm_cli.models.head.pair_data import Fitted, PairData
from sparserm_cli.models.head.reward_head import RewardHead
from sparserm_cli.store.artifacts.head_arrays import HEAD_TENSORS, HeadArrays

X = np.array([[1.0, -2.0], [0.5, 3.0]], np.float32)


def test_every_kind_has_tensors_in_the_store():
    """What the store can read and what can be fitted are the same kinds."""
    assert set(HEADS) == set(HEAD_TENSORS)
    for name, kind in HEADS.items():
        assert kind.output in HEAD_TENSORS[name]


def test_scores_by_hand():
    """A linear head, and one hidden layer of two units of which one is off."""
    linear = {"weight": np.array([2.0, 1.0], np.float32), "bias": np.array([0.5], np.float32)}
    assert scores_of(linear, X).tolist() == [0.5, 4.5]
    mlp = {
        "weight_1": np.array([[1.0, -1.0], [0.0, 1.0]], np.float32),
        "bias_1": np.array([0.0, 1.0], np.float32),
        "weight_2": np.array([1.0, 2.0], np.float32),
        "bias": np.array([-1.0], np.float32),
    }
    # hidden: relu(1, -1 - 2 + 1) = (1, 0); relu(0.5, -0.5 + 3 + 1) = (0.5, 3.5)
    assert scores_of(mlp, X).tolist() == [0.0, 6.5]


def test_tensors_of_no_kind_are_refused():
    """A head is known by exactly its tensors."""
    with pytest.raises(ValueError, match="weights"):
        kind_of({"weight": X, "gate": X})


class Tilt:
    """A head of a third kind: the first projection times a tilt that is the pairs' mean difference in it."""

    @staticmethod
    def fit(data: PairData, _loss: str, **_options: object) -> Fitted:
        """Take the mean difference."""
        pairs = data.train_pairs
        tilt = (data.x[pairs[:, 0], 0] - data.x[pairs[:, 1], 0]).mean(keepdims=True).astype(np.float32)
        weights = {"tilt": tilt, "bias": np.zeros(1, np.float32)}
        return Fitted(weights, weights, {})


def test_one_more_head_is_one_entry(monkeypatch: pytest.MonkeyPatch):
    """With its tensors named, a new kind is fitted, scored, rescaled and explained like the others."""
    monkeypatch.setitem(HEAD_TENSORS, "tilt", ("tilt", "bias"))
    kind = HeadKind(
        lambda w, x: x[:, 0] * w["tilt"] + w["bias"],
        "tilt",
        lambda _w, x: x[:, :1],
        exact=False,
        fit="tilt:fit",
    )
    monkeypatch.setitem(HEADS, "tilt", kind)
    monkeypatch.setattr(heads, "import_module", lambda name: Tilt if name == "tilt" else None)
    data = PairData(X, np.array([[0, 1]]), np.zeros(1, bool), np.ones(1, np.float32))
    fitted = fit_head(data, "tilt", "bt")
    assert scores_of(fitted.weights, X).tolist() == [0.5, 0.25]
    arrays = HeadArrays(np.zeros(2, np.float32), np.ones(2, np.float32), fitted.weights)
    head = RewardHead(arrays, (0,), "mean")
    assert head({0: {"mean": X}}).tolist() == [0.5, 0.25]
    assert head.normalised(0.0, 2.0).score(torch.as_tensor(X)).tolist() == [0.25, 0.125]
    assert method_of(head) == "integrated gradients"


@pytest.mark.parametrize(("few", "threads"), [(X.size, 1), (X.size - 1, 3)])
def test_few_projections_are_fitted_by_one_thread(monkeypatch: pytest.MonkeyPatch, few: int, threads: int):
    """Threads would only wait for each other; the number is as before afterwards, even after an error."""
    seen = []

    def fit(*_data: object, **_options: object) -> Fitted:
        seen.append(torch.get_num_threads())
        raise ValueError("no fit")

    monkeypatch.setattr(heads, "FEW_NUMBERS", few)
    monkeypatch.setattr(heads, "import_module", lambda _name: SimpleNamespace(fit_linear=fit))
    data = PairData(X, np.array([[0, 1]]), np.zeros(1, bool), np.ones(1, np.float32))
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with pytest.raises(ValueError, match="no fit"):
            fit_head(data, "linear", "bt")
        assert (seen, torch.get_num_threads()) == ([threads], 3)
    finally:
        torch.set_num_threads(before)
