"""The reward head as a scikit-learn classifier."""

import pickle
from typing import Any

import numpy as np
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from sparserm_cli.errors import UsageError
from sparserm_cli.models.head.classifier import SparseRewardClassifier, _pairs

pytestmark = pytest.mark.slow

HELD_TO_TYPES = {
    "check_do_not_raise_errors_in_init_or_set_params": "these tests hold every argument to its declared type"
}


@parametrize_with_checks([SparseRewardClassifier()], expected_failed_checks=lambda _: HELD_TO_TYPES)
def test_it_keeps_the_conventions_of_scikit_learn(estimator: Any, check: Any):
    """Every check of scikit-learn's own suite."""
    check(estimator)


def planted(seed: int, prompts: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return latents of two responses per prompt: column 3 fires on preferred ones, column 5 on others."""
    rng = np.random.default_rng(seed)
    x = (rng.random((2 * prompts, 40)) < 0.3) * rng.random((2 * prompts, 40))
    preferred = np.arange(2 * prompts) % 2 == 0
    x[preferred, 3] += rng.random(prompts) * (rng.random(prompts) < 0.8)
    x[~preferred, 5] += rng.random(prompts) * (rng.random(prompts) < 0.8)
    return x, preferred.astype(int), np.repeat(np.arange(prompts), 2)


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_planted_latents_are_found(head: str):
    """Both of them come first on their side, and new prompts are told apart; dense and sparse alike."""
    x, y, groups = planted(0)
    model = SparseRewardClassifier(top_k=2, head=head).fit(x, y, groups=groups)
    assert (model.selected_[0], model.selected_[-1]) == (3, 5)
    assert len(model.selected_) == 4
    new, labels, _ = planted(1)
    assert model.score(new, labels) > 0.7
    rewards = model.reward(new)
    assert np.mean(rewards[::2] > rewards[1::2]) > 0.7
    assert np.array_equal(model.predict(sparse.csr_array(new)), model.predict(new))
    thin = SparseRewardClassifier(top_k=2, head=head).fit(sparse.csr_matrix(x), y, groups=groups)
    np.testing.assert_allclose(thin.reward(new), rewards, atol=1e-5)


def test_directions_are_projected_on():
    """The sign of one direction says it all."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 8))
    directions = np.eye(8)[[2, 6]]
    y = np.where(x[:, 2] > 0, "good", "bad")
    model = SparseRewardClassifier(directions=directions).fit(x, y)
    assert model.classes_.tolist() == ["bad", "good"]
    assert model.score(x, y) > 0.95
    assert model.mean_.shape == (2,)
    with pytest.raises(UsageError, match=r"directions: expected shape \(directions, 8\), found \(2, 7\)"):
        SparseRewardClassifier(directions=directions[:, :7]).fit(x, y)


def test_pairs_are_those_of_a_group():
    """Every preferred response with every other of its group, and no other pair."""
    preferred = np.array([True, False, True, False, False, True])
    pairs, group = _pairs(preferred, ["a", "a", "b", "b", "b", "c"], np.random.default_rng(0))
    assert pairs.tolist() == [[0, 1], [2, 3], [2, 4]]
    assert group.tolist() == [0, 1, 1]
    free, _ = _pairs(preferred, None, np.random.default_rng(0))
    assert preferred[free[:, 0]].all()
    assert not preferred[free[:, 1]].any()
    assert sorted(set(free.ravel().tolist())) == [0, 1, 2, 3, 4, 5]
    with pytest.raises(UsageError, match="expected a group with responses of both classes, found none"):
        _pairs(preferred, [0, 1, 2, 3, 4, 5], np.random.default_rng(0))


def test_it_works_in_a_pipeline_and_across_folds():
    """Cloned, cross-validated over groups, pickled."""
    x, y, groups = planted(2)
    pipeline = make_pipeline(MaxAbsScaler(), SparseRewardClassifier(top_k=4))
    scores = cross_val_score(clone(pipeline), x, y, groups=groups, cv=GroupKFold(3))
    assert scores.mean() > 0.7
    fitted = pipeline.fit(x, y)
    again = pickle.loads(pickle.dumps(fitted))  # noqa: S301 - made on this line
    assert np.array_equal(again.predict_proba(x), fitted.predict_proba(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "deep"}, "head: expected one of linear, mlp, found 'deep'; correct the parameter"),
        ({"loss": "l2"}, "loss: expected one of margin, bt, bce, found 'l2'; correct the parameter"),
        ({"top_k": 0}, "top_k: expected a whole number of at least 1, found 0; correct the parameter"),
        (
            {"val_fraction": 1},
            "val_fraction: expected a share below 1, found 1; correct the parameter",
        ),
    ],
)
def test_wrong_parameters_are_refused(options: dict[str, Any], message: str):
    """When it is fitted, as scikit-learn wants it."""
    x, y, _ = planted(0)
    with pytest.raises(UsageError) as error:
        SparseRewardClassifier(**options).fit(x, y)
    assert str(error.value) == message
