"""Fitting a head with one hidden layer, starting from the linear head.

Axes: `members` networks trained side by side, `p` projections, `hidden` units per member, `m` pairs.

Two hidden units carry the fitted linear head (the positive and the negative part of its score), the others
begin without weight on the score. So training starts at the linear head and is stopped where the loss on the
validation pairs is least: if nothing beats the linear head, the linear head is what remains.

Projections of several layers or poolings are several views of a response. Each has a hidden layer of its own,
which is stopped when it is best, and their scores are averaged: one layer for all of them overfits sooner.

`fit_plain` trains the layer of the paper instead: all projections at once, from random weights.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from scipy.linalg import block_diag
from torch import Tensor

from sparserm_cli.models.head.fits.penalty import Basis, choose_penalty, solved
from sparserm_cli.models.head.heads import centred
from sparserm_cli.models.head.pair_data import Fitted, PairData, Weights, pair_loss


@dataclass(frozen=True)
class MLPRecipe:
    """Options of the training of the hidden layer."""

    hidden: int = 512
    """Total number of hidden units, including the two of the linear part."""
    members: int = 1
    """Number of networks that share the units and whose scores are averaged."""
    learning_rate: float = 5e-4
    """Learning rate of AdamW."""
    weight_decay: float = 0.01
    """Weight decay of AdamW; each step multiplies it by the learning rate."""
    dropout: float = 0.5
    """Share of hidden units left out at each step."""
    batch_pairs: int = 256
    """Number of pairs per step."""
    epochs: int = 60
    """Largest number of passes over the training pairs."""
    pair_visits: int = 400_000
    """Largest number of pairs seen in total, which bounds the time on large data; one pass is always made."""
    patience: int = 8
    """Number of passes without a lower validation loss after which training stops."""
    blind_epochs: int = 0
    """Number of passes where no validation pairs say when to stop."""


PLAIN = MLPRecipe(dropout=0.0, blind_epochs=10)
"""How the paper's layer is trained. The paper does not say, so only what it says is left out."""


class _Network(torch.nn.Module):
    """The hidden layer, beside the linear part that it starts from or alone."""

    def __init__(
        self, recipe: MLPRecipe, p: int, linear: Float32[Tensor, " p"] | None, generator: torch.Generator
    ) -> None:
        super().__init__()
        members, units = recipe.members, (recipe.hidden - 2 * (linear is not None)) // recipe.members
        drawn = torch.randn(members, p, units, generator=generator) / p**0.5
        second = torch.zeros(members, units, 1)
        if linear is None:  # without weights here nothing would reach the first ones
            second = torch.randn(members, units, 1, generator=generator) / units**0.5
        self.weight_1 = torch.nn.Parameter(drawn)
        self.bias_1 = torch.nn.Parameter(torch.zeros(members, 1, units))
        self.weight_2 = torch.nn.Parameter(second)
        self.linear = (
            None if linear is None else torch.nn.Parameter(linear.repeat(members, 1)[..., None].clone())
        )

    def forward(
        self, z: Float32[Tensor, "n p"], keep: float = 1.0, generator: torch.Generator | None = None
    ) -> Float32[Tensor, "members n"]:
        """Score responses; `keep` is the share of hidden units that is kept."""
        hidden = torch.relu(torch.matmul(z, self.weight_1) + self.bias_1)
        if keep < 1.0:
            hidden = hidden * (torch.rand(hidden.shape, generator=generator) < keep) / keep
        scores = torch.matmul(hidden, self.weight_2)
        if self.linear is not None:
            scores = scores + torch.matmul(z, self.linear)
        return scores[..., 0]


def fit_mlp(
    data: PairData,
    loss: str,
    *,
    seed: int = 0,
    recipe: MLPRecipe | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Fitted:
    """Fit a head with one hidden layer of ReLUs, in which each view has its own share of the units.

    Args:
        data: projections and pairs; without validation pairs the linear head remains.
        loss: margin, bt or bce.
        seed: seed of the first weights, the order of the pairs and the dropout.
        recipe: how to train.
        progress: called with passes done and passes at most.

    """
    recipe = recipe or MLPRecipe()
    shared = replace(recipe, hidden=recipe.hidden // data.views)
    fits = []
    for number, x in enumerate(np.split(data.x, data.views, axis=1)):

        def advance(done: int, total: int, before: int = number) -> None:
            if progress:
                progress(before * total + done, data.views * total)

        fits.append(_fit_view(replace(data, x=x, views=1), loss, shared, seed + number, advance))
    if len(fits) == 1:
        return fits[0]
    weights, before = ([getattr(fit, name) for fit in fits] for name in ("weights", "validated"))
    return Fitted(_averaged(weights), _averaged(before), {"views": [fit.facts for fit in fits]})


def fit_plain(
    data: PairData,
    loss: str,
    *,
    seed: int = 0,
    recipe: MLPRecipe = PLAIN,
    progress: Callable[[int, int], None] | None = None,
) -> Fitted:
    """Fit the hidden layer of the paper: from random weights, on all projections, with no penalty chosen.

    The validation pairs say when to stop.

    Args:
        data: projections and pairs; all of its views share the layer.
        loss: margin, bt or bce.
        seed: seed of the first weights and of the order of the pairs.
        recipe: how to train.
        progress: called with passes done and passes at most.

    """
    z = torch.as_tensor(data.x)
    training = _Training(z, data, loss, recipe, seed)
    validated, facts = training.stopped(None, progress or (lambda _done, _total: None))
    final = training.repeated(None, int(facts["epochs"]))
    unchanged = Basis(np.eye(z.shape[1], dtype=np.float32), z)
    weights, before = (centred(data, _folded(network, unchanged)) for network in (final, validated))
    return Fitted(weights, before, {"plain": True, **facts})


def _averaged(views: Sequence[Weights]) -> Weights:
    """Return one head whose score is the mean of the views' scores."""
    return {
        "weight_1": block_diag(*(view["weight_1"] for view in views)).astype(np.float32),
        "bias_1": np.concatenate([view["bias_1"] for view in views]),
        "weight_2": np.concatenate([view["weight_2"] for view in views]) / np.float32(len(views)),
        "bias": np.stack([view["bias"] for view in views]).mean(axis=0),
    }


def _fit_view(
    data: PairData,
    loss: str,
    recipe: MLPRecipe,
    seed: int,
    progress: Callable[[int, int], None],
) -> Fitted:
    """Fit the hidden layer of one view."""
    penalty = choose_penalty(data, loss)
    coordinates = penalty.coordinates
    training = _Training(coordinates.z, data, loss, recipe, seed)
    validated, facts = training.stopped(solved(data, penalty, loss, training_only=True), progress)
    final = training.repeated(solved(data, penalty, loss), int(facts["epochs"]))
    weights, before = (centred(data, _folded(network, coordinates)) for network in (final, validated))
    return Fitted(weights, before, {**penalty.facts(), **facts})


class _Training:
    """Training a network from a linear head on."""

    def __init__(
        self, z: Float32[Tensor, "n p"], data: PairData, loss: str, recipe: MLPRecipe, seed: int
    ) -> None:
        self._z, self._data, self._loss, self._recipe, self._seed = z, data, loss, recipe, seed

    def stopped(
        self, linear: Float64[np.ndarray, " solution"] | None, progress: Callable[[int, int], None]
    ) -> tuple[_Network, dict[str, float]]:
        """Train on the training pairs; return the network of the least validation loss, and when that was."""
        network, generator = self._network(linear)
        if not self._data.validation.any():  # nothing says when to stop
            return self.repeated(linear, self._recipe.blind_epochs), {"epochs": self._recipe.blind_epochs}
        best, best_epoch, kept = self._validation_loss(network), 0, _copy(network)
        facts = {} if linear is None else {"linear_validation_loss": best}
        kept_pairs = np.flatnonzero(~self._data.validation)
        epochs = min(self._recipe.epochs, max(1, self._recipe.pair_visits // len(kept_pairs)))
        for epoch in self._epochs(network, generator, kept_pairs, epochs):
            current = self._validation_loss(network)
            if current < best:
                best, best_epoch, kept = current, epoch, _copy(network)
            progress(epoch, epochs)
            if epoch - best_epoch >= self._recipe.patience:
                break
        network.load_state_dict(kept)
        return network, {"validation_loss": best, **facts, "epochs": best_epoch}

    def repeated(self, linear: Float64[np.ndarray, " solution"] | None, epochs: int) -> _Network:
        """Train on all pairs for a number of passes."""
        network, generator = self._network(linear)
        for _ in self._epochs(network, generator, np.arange(len(self._data.pairs)), epochs):
            pass
        return network

    def _network(self, linear: Float64[np.ndarray, " solution"] | None) -> tuple[_Network, torch.Generator]:
        """Return a fresh network and the generator of all that is random."""
        generator = torch.Generator().manual_seed(self._seed)
        start = None if linear is None else torch.as_tensor(linear[:-1], dtype=torch.float32)
        return _Network(self._recipe, self._z.shape[1], start, generator), generator

    def _epochs(
        self, network: _Network, generator: torch.Generator, kept: Int64[np.ndarray, " kept"], epochs: int
    ) -> Iterator[int]:
        """Pass over some pairs; yield the number of each pass when it is done."""
        recipe = self._recipe
        pairs, weight = torch.as_tensor(self._data.pairs[kept]), torch.as_tensor(self._data.weight[kept])
        decayed = [network.weight_1, network.weight_2]
        decayed += [] if network.linear is None else [network.linear]
        groups: list[dict[str, Any]] = [
            {"params": decayed},
            {"params": [network.bias_1], "weight_decay": 0.0},
        ]
        optimiser = torch.optim.AdamW(groups, recipe.learning_rate, weight_decay=recipe.weight_decay)
        for epoch in range(1, epochs + 1):
            order = torch.randperm(len(pairs), generator=generator)
            for taken in order.split(recipe.batch_pairs):
                scores = network(self._z[pairs[taken].reshape(-1)], 1.0 - recipe.dropout, generator)
                value = pair_loss(scores[:, 0::2], scores[:, 1::2], weight[taken], self._loss).sum()
                optimiser.zero_grad()
                value.backward()
                optimiser.step()
            yield epoch

    @torch.no_grad()
    def _validation_loss(self, network: _Network) -> float:
        """Return the loss of the averaged members on the validation pairs."""
        data = self._data
        rows, place = np.unique(data.pairs[data.validation], return_inverse=True)
        scores = network(self._z[rows]).mean(0)
        index = place.reshape(-1, 2)
        weight = torch.as_tensor(data.weight[data.validation])
        return float(pair_loss(scores[index[:, 0]], scores[index[:, 1]], weight, self._loss))


def _copy(network: _Network) -> dict[str, Tensor]:
    """Return a copy of the parameters."""
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def _folded(network: _Network, coordinates: Basis) -> Weights:
    """Return the network as one hidden layer on standardised projections."""
    members, p, units = network.weight_1.shape
    weight_1 = network.weight_1.permute(1, 0, 2).reshape(p, members * units)
    bias_1, weight_2 = network.bias_1.reshape(-1), network.weight_2.reshape(-1) / members
    if network.linear is not None:
        linear = network.linear.mean(0)
        weight_1 = torch.cat([weight_1, linear, -linear], dim=1)
        bias_1 = torch.cat([bias_1, torch.zeros(2)])
        weight_2 = torch.cat([weight_2, torch.tensor([1.0, -1.0])])
    return {
        "weight_1": coordinates.to @ weight_1.detach().numpy(),
        "bias_1": bias_1.detach().numpy(),
        "weight_2": weight_2.detach().numpy(),
    }
