"""Kinds of reward head, in one table: how each scores, and where its fit lies.

Axes: `n` responses, `p` standardised projections, `hidden` units.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from sparserm_cli.models.head.pair_data import Fitted, PairData, Weights
from sparserm_cli.store.artifacts.head_arrays import head_kind

Score = Callable[[Mapping[str, Tensor], Float32[Tensor, "n p"]], Float32[Tensor, " n"]]
Features = Callable[[Mapping[str, Tensor], Float32[Tensor, "n p"]], Float32[Tensor, "n features"]]


@dataclass(frozen=True)
class HeadKind:
    """One kind of head; `store.artifacts.head_arrays.HEAD_TENSORS` names its tensors."""

    score: Score
    """Scores standardised projections by the head's tensors; differentiable."""
    output: str
    """The tensor in which the score is linear, beside `bias`."""
    features: Features
    """Returns what the score is linear in: the inputs of the last layer."""
    exact: bool
    """Whether the score is a sum of one part per projection, so that explanations are exact."""
    fit: str
    """`module:function` that fits it, imported when it is first used."""


def _linear(weights: Mapping[str, Tensor], x: Float32[Tensor, "n p"]) -> Float32[Tensor, " n"]:
    """Return `x @ weight + bias`."""
    return x @ weights["weight"] + weights["bias"]


def _inputs(_weights: Mapping[str, Tensor], x: Float32[Tensor, "n p"]) -> Float32[Tensor, "n p"]:
    """Return the projections themselves."""
    return x


def _hidden(weights: Mapping[str, Tensor], x: Float32[Tensor, "n p"]) -> Float32[Tensor, "n hidden"]:
    """Return the units of one hidden layer of ReLUs."""
    return torch.relu(x @ weights["weight_1"] + weights["bias_1"])


def _mlp(weights: Mapping[str, Tensor], x: Float32[Tensor, "n p"]) -> Float32[Tensor, " n"]:
    """Return the output of one hidden layer of ReLUs."""
    return _hidden(weights, x) @ weights["weight_2"] + weights["bias"]


HEADS: dict[str, HeadKind] = {
    "linear": HeadKind(
        _linear, "weight", _inputs, exact=True, fit="sparserm_cli.models.head.fits.linear:fit_linear"
    ),
    "mlp": HeadKind(_mlp, "weight_2", _hidden, exact=False, fit="sparserm_cli.models.head.fits.mlp:fit_mlp"),
}
"""Name, as `--head` takes it, to kind."""
FEW_NUMBERS = 1 << 22
"""Numbers in all projections up to which one thread fits a head."""
PLAIN_FIT = "sparserm_cli.models.head.fits.mlp:fit_plain"
"""`module:function` that fits a hidden layer as the paper describes it; the head is of kind `mlp`."""


def kind_of(weights: Mapping[str, object]) -> HeadKind:
    """Return the kind of head that has these tensors.

    Raises:
        ValueError: none has.

    """
    return HEADS[head_kind(weights)]


def fit_head(
    data: PairData,
    head: str,
    loss: str,
    *,
    plain: bool = False,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Fitted:
    """Fit a head of one kind on pairs.

    Args:
        data: projections and pairs.
        head: one of HEADS.
        loss: margin, bt or bce.
        plain: train a hidden layer from random weights, as in the paper.
        seed: seed of everything random in the fit.
        progress: called with steps done and steps in all.

    """
    module, _, function = (PLAIN_FIT if plain else HEADS[head].fit).partition(":")
    fit: Callable[..., Fitted] = getattr(import_module(module), function)
    with _threads_for(data):
        return fit(data, loss, seed=seed, progress=progress)


@contextmanager
def _threads_for(data: PairData) -> Iterator[None]:
    """Let few projections be computed by one thread of torch.

    Their products take microseconds, and where other programs keep the processors busy, threads wait for each
    other far longer than that.
    """
    before = torch.get_num_threads()
    if data.x.size <= FEW_NUMBERS:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def scores_of(
    weights: Mapping[str, Float32[np.ndarray, "..."]], x: Float32[np.ndarray, "n p"]
) -> Float32[np.ndarray, " n"]:
    """Score standardised projections."""
    tensors = {name: torch.as_tensor(values) for name, values in weights.items()}
    return kind_of(weights).score(tensors, torch.as_tensor(x)).numpy()


def features_of(
    weights: Mapping[str, Float32[np.ndarray, "..."]], x: Float32[np.ndarray, "n p"]
) -> Float32[np.ndarray, "n features"]:
    """Return what the score is linear in: the projections, or the hidden units of an MLP head."""
    tensors = {name: torch.as_tensor(values) for name, values in weights.items()}
    return kind_of(weights).features(tensors, torch.as_tensor(x)).numpy()


def centred(data: PairData, weights: Weights) -> Weights:
    """Return a head with the bias that makes the responses of all pairs score 0 on average."""
    unbiased = {**weights, "bias": np.zeros(1, np.float32)}
    bias = -float(scores_of(unbiased, data.x[np.unique(data.pairs)]).mean())
    return {**weights, "bias": np.array([bias], np.float32)}
