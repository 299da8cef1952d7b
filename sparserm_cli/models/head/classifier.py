"""The reward head as a scikit-learn classifier on vectors that are there already.

    from sparserm_cli import SparseRewardClassifier

    latents = open_features("my-run").pooled(14, "max")        # or any other latents, one row per response
    model = SparseRewardClassifier(top_k=32).fit(latents, chosen, groups=prompts)
    rewards = model.decision_function(latents)

Axes: n (responses), d (columns of X), p (projections), m (pairs).
"""

from typing import Any, Self

import numpy as np
from jaxtyping import Bool, Float, Int64
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_is_fitted, validate_data

from sparserm_cli.errors import UsageError
from sparserm_cli.models.head.heads import HEADS, fit_head
from sparserm_cli.models.head.pair_data import PairData, standardisation

LOSSES = ("margin", "bt", "bce")


class SparseRewardClassifier(ClassifierMixin, BaseEstimator):
    """Tells chosen from rejected responses by a few preference directions.

    Without `directions` the columns of X are latents, of which those are taken whose firing rates (the share
    of responses on which they are above 0) differ most between the classes. With `directions`
    X holds residual vectors, which are projected on them. The head is that of `sparserm fit`, fitted on pairs
    of a response of either class: with `groups` on all pairs of one group, such as the responses to a prompt,
    else on pairs drawn at random. The probability is logistic in the head's score (Platt 1999), fitted on the
    same responses.

    Args:
        top_k: number of latents per side; all columns are taken if there are fewer than twice as many.
        directions: shape (directions, d), or None.
        head: linear or mlp.
        loss: margin, bt (Bradley-Terry) or bce.
        val_fraction: share of groups (or of pairs) that chooses the strength of the penalty and stops the
            training of an mlp.
        random_state: seed of the pairs, of the validation part and of the first weights.

    Attributes:
        classes_: both labels; the second is the preferred one.
        selected_: columns taken, the preferred ones first; None with `directions`.
        weights_: tensors of the head, as the store names them.
        mean_: mean of each projection over the training responses, shape (p,).
        std_: their standard deviation, shape (p,).
        n_features_in_: columns of X.

    """

    def __init__(
        self,
        top_k: int = 64,
        directions: Any = None,
        head: str = "linear",
        loss: str = "bt",
        val_fraction: float = 0.1,
        random_state: int = 0,
    ) -> None:
        self.top_k, self.directions, self.head, self.loss = top_k, directions, head, loss
        self.val_fraction, self.random_state = val_fraction, random_state

    def fit(self, X: Any, y: Any, groups: Any = None) -> Self:  # noqa: N803 - scikit-learn's name
        """Choose directions and fit the head.

        Args:
            X: shape (n, d), an array or a scipy.sparse matrix.
            y: two different labels, shape (n,); the one that sorts last is preferred.
            groups: shape (n,), equal for responses that compete, such as those to one prompt; None lets all
                compete. Validation never separates a group.

        Raises:
            ValueError: not two classes, or X is not finite or of another shape.
            UsageError: a parameter is out of range, or no group has responses of both classes.

        """
        X, y = validate_data(self, X, y, accept_sparse="csr", dtype=[np.float64, np.float32])  # noqa: N806
        check_classification_targets(y)
        self._check_parameters()
        if type_of_target(y) == "multiclass":
            raise ValueError("Only binary classification is supported. The type of the target is multiclass.")
        self.classes_, label = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError("SparseRewardClassifier needs samples of 2 classes, and there is 1 class")
        preferred = label == 1
        self.selected_ = None if self.directions is not None else _selected(X, preferred, self.top_k)
        projections = self._projections(X).astype(np.float32)
        rng = np.random.default_rng(self.random_state)
        pairs, group = _pairs(preferred, groups, rng)
        self.mean_, self.std_ = standardisation(projections, np.arange(len(projections)))
        data = PairData(
            (projections - self.mean_) / self.std_,
            pairs,
            _validation(group, self.val_fraction, rng),
            np.ones(len(pairs), np.float32),
            groups=group.astype(np.uint64),
        )
        self.weights_ = fit_head(data, self.head, self.loss, seed=self.random_state).weights
        self._platt = LogisticRegression(C=1e6).fit(self.reward(X)[:, None], preferred)
        return self

    def reward(self, X: Any) -> Float[np.ndarray, " n"]:  # noqa: N803
        """Return the score of the head, of which only differences mean something, shape (n,)."""
        x = (self._checked(X) - self.mean_) / self.std_
        weights = {name: tensor.astype(np.float64) for name, tensor in self.weights_.items()}
        if "weight" in weights:
            return np.asarray(x @ weights["weight"] + weights["bias"])
        hidden = np.maximum(x @ weights["weight_1"] + weights["bias_1"], 0)
        return np.asarray(hidden @ weights["weight_2"] + weights["bias"])

    def decision_function(self, X: Any) -> Float[np.ndarray, " n"]:  # noqa: N803
        """Return log odds of the preferred class, which rise with the reward, shape (n,)."""
        return np.asarray(self._platt_of(self.reward(X)))

    def predict_proba(self, X: Any) -> Float[np.ndarray, "n 2"]:  # noqa: N803
        """Return the probability of either class, in the order of `classes_`."""
        odds = self.decision_function(X)
        preferred = 1 / (1 + np.exp(-np.clip(odds, -500, 500)))
        return np.stack([1 - preferred, preferred], axis=1)

    def predict(self, X: Any) -> np.ndarray:  # noqa: N803
        """Return the more probable class, shape (n,)."""
        preferred = self.decision_function(X) > 0
        return np.asarray(self.classes_[preferred.astype(int)])

    def _platt_of(self, reward: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Return the log odds of rewards."""
        return np.asarray(reward * self._platt.coef_[0, 0] + self._platt.intercept_[0])

    def _checked(self, X: Any) -> Float[np.ndarray, "n p"]:  # noqa: N803
        """Return the projections of vectors that look like those of the fit."""
        check_is_fitted(self, "weights_")
        X = validate_data(  # noqa: N806
            self, X, accept_sparse="csr", reset=False, dtype=[np.float64, np.float32]
        )
        return self._projections(X)

    def _projections(self, X: Any) -> Float[np.ndarray, "n p"]:  # noqa: N803
        """Return selected latents, or projections on the directions, as float64."""
        projected: Any = (
            X[:, self.selected_] if self.selected_ is not None else X @ np.asarray(self.directions).T
        )
        dense = projected.toarray() if hasattr(projected, "toarray") else np.asarray(projected)
        return np.asarray(dense, np.float64)

    def _check_parameters(self) -> None:
        """Raise UsageError for a parameter that is out of range."""
        hint = "correct the parameter"
        for name, choices in (("head", HEADS), ("loss", LOSSES)):
            if getattr(self, name) not in choices:
                found = repr(getattr(self, name))
                raise UsageError(name, f"one of {', '.join(choices)}", found, hint)
        if self.top_k < 1:
            raise UsageError("top_k", "a whole number of at least 1", str(self.top_k), hint)
        if not 0 <= self.val_fraction < 1:
            raise UsageError("val_fraction", "a share below 1", str(self.val_fraction), hint)
        shape = None if self.directions is None else np.shape(self.directions)
        if shape is not None and (len(shape) != 2 or shape[1] != self.n_features_in_):
            expected = f"shape (directions, {self.n_features_in_})"
            raise UsageError("directions", expected, str(shape), "give directions of the same space")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.classifier_tags.multi_class = False
        return tags


def _selected(X: Any, preferred: Bool[np.ndarray, " n"], top_k: int) -> Int64[np.ndarray, " p"]:  # noqa: N803
    """Return the columns whose firing rates differ most, the most preferred first."""
    rates = [np.asarray((X[side] > 0).sum(axis=0)).ravel() / side.sum() for side in (preferred, ~preferred)]
    order = np.argsort(rates[1] - rates[0], kind="stable")
    if 2 * top_k >= len(order):
        return np.asarray(order, np.int64)
    return np.concatenate([order[:top_k], order[-top_k:]]).astype(np.int64)


def _pairs(
    preferred: Bool[np.ndarray, " n"], groups: Any, rng: np.random.Generator
) -> tuple[Int64[np.ndarray, "m 2"], Int64[np.ndarray, " m"]]:
    """Return pairs of a preferred and another response, and the group of each.

    Raises:
        UsageError: no group has both.
        ValueError: there are not as many groups as responses.

    """
    if groups is None:
        sides = [rng.permutation(np.flatnonzero(side)) for side in (preferred, ~preferred)]
        count = max(map(len, sides))
        pairs = np.stack([np.resize(side, count) for side in sides], axis=1).astype(np.int64)
        return pairs, np.arange(count)
    if len(groups) != len(preferred):
        raise ValueError(f"{len(groups)} groups for {len(preferred)} responses")
    number = np.unique(np.asarray(groups), return_inverse=True)[1]
    index_pairs = [np.empty((0, 2), np.int64)]
    for group in range(number.max() + 1):
        own = np.flatnonzero(number == group)
        chosen, rejected = own[preferred[own]], own[~preferred[own]]
        index_pairs.append(np.stack(np.meshgrid(chosen, rejected, indexing="ij"), axis=-1).reshape(-1, 2))
    pairs = np.concatenate(index_pairs)
    if not len(pairs):
        raise UsageError("groups", "a group with responses of both classes", "none", "check the labels")
    return pairs, number[pairs[:, 0]].astype(np.int64)


def _validation(
    group: Int64[np.ndarray, " m"], fraction: float, rng: np.random.Generator
) -> Bool[np.ndarray, " m"]:
    """Return the pairs that validate: those of a random share of the groups, but never all."""
    names = rng.permutation(np.unique(group))
    return np.isin(group, names[: min(round(fraction * len(names)), len(names) - 1)])
