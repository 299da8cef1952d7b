"""Fitting a head with one hidden layer, starting from the linear head.

Axes: `members` networks trained side by side, `p` projections, `hidden` units a member, `m` pairs.

Two hidden units carry the fitted linear head (the positive and the negative part of its score), the others
begin without weight on the score. So training starts at the linear head and is stopped where the loss on the
validation pairs is least: if nothing beats the linear head, the linear head is what remains.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from sparserm_cli.models.fitting import (
    Basis,
    Fitted,
    PairData,
    basis,
    centred,
    choose_strength,
    fit_linear,
    pair_loss,
)


@dataclass(frozen=True)
class MLPRecipe:
    """How the hidden layer is trained."""

    hidden: int = 512
    """Hidden units in all, the two of the linear part among them."""
    members: int = 1
    """Networks that share the units and whose scores are averaged."""
    learning_rate: float = 5e-4
    """Of AdamW."""
    weight_decay: float = 0.01
    """Of AdamW, times the learning rate at each step."""
    dropout: float = 0.5
    """Share of hidden units left out at each step."""
    batch_pairs: int = 256
    """Pairs in one step."""
    epochs: int = 60
    """Passes over the training pairs at most."""
    pair_visits: int = 1_000_000
    """Pairs seen in all at most, which bounds the time on large data; at least one pass."""
    patience: int = 8
    """Passes without a lower validation loss after which training stops."""


class _Network(torch.nn.Module):
    """The hidden layer beside the linear part."""

    def __init__(self, recipe: MLPRecipe, linear: Float32[Tensor, " p"], generator: torch.Generator) -> None:
        super().__init__()
        p, units = len(linear), (recipe.hidden - 2) // recipe.members
        drawn = torch.randn(recipe.members, p, units, generator=generator) / p**0.5
        self.weight_1 = torch.nn.Parameter(drawn)
        self.bias_1 = torch.nn.Parameter(torch.zeros(recipe.members, 1, units))
        self.weight_2 = torch.nn.Parameter(torch.zeros(recipe.members, units, 1))
        self.linear = torch.nn.Parameter(linear.repeat(recipe.members, 1)[..., None].clone())

    def forward(
        self, z: Float32[Tensor, "n p"], keep: float = 1.0, generator: torch.Generator | None = None
    ) -> Float32[Tensor, "members n"]:
        """Score responses; `keep` is the share of hidden units that is kept."""
        hidden = torch.relu(torch.matmul(z, self.weight_1) + self.bias_1)
        if keep < 1.0:
            hidden = hidden * (torch.rand(hidden.shape, generator=generator) < keep) / keep
        return (torch.matmul(hidden, self.weight_2) + torch.matmul(z, self.linear))[..., 0]


def fit_mlp(
    data: PairData,
    loss: str,
    *,
    seed: int = 0,
    recipe: MLPRecipe | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Fitted:
    """Fit a head with one hidden layer of ReLUs.

    Args:
        data: projections and pairs; without validation pairs the linear head remains.
        loss: margin, bt or bce.
        seed: of the first weights, the order of pairs and the dropout.
        recipe: how to train.
        progress: called with passes done and passes at most.

    """
    recipe = recipe or MLPRecipe()
    coordinates = basis(data)
    start = choose_strength(data, coordinates, loss)
    generator = torch.Generator().manual_seed(seed)
    network = _Network(recipe, torch.as_tensor(start.solution[:-1], dtype=torch.float32), generator)
    facts = _train(network, coordinates.z, data, loss, recipe, generator, progress)
    return centred(data, _folded(network, coordinates), {"l2": start.strength, **facts})


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


def _train(
    network: _Network,
    z: Float32[Tensor, "n p"],
    data: PairData,
    loss: str,
    recipe: MLPRecipe,
    generator: torch.Generator,
    progress: Callable[[int, int], None] | None,
) -> dict[str, float]:
    """Train the network and leave it as it was where the validation loss was least."""
    if not data.validation.any():  # nothing says when to stop
        return {"epochs": 0}
    pairs, weight = torch.as_tensor(data.train_pairs), torch.as_tensor(data.weight[~data.validation])
    decayed = [network.weight_1, network.weight_2, network.linear]
    optimiser = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": recipe.weight_decay},
            {"params": [network.bias_1], "weight_decay": 0.0},
        ],
        lr=recipe.learning_rate,
    )
    epochs = min(recipe.epochs, max(1, recipe.pair_visits // max(len(pairs), 1)))
    best, best_epoch, kept = _validation_loss(network, z, data, loss), 0, _copy(network)
    linear_loss = best
    for epoch in range(1, epochs + 1):
        order = torch.randperm(len(pairs), generator=generator)
        for first in range(0, len(order), recipe.batch_pairs):
            taken = order[first : first + recipe.batch_pairs]
            scores = network(z[pairs[taken].reshape(-1)], 1.0 - recipe.dropout, generator)
            value = pair_loss(scores[:, 0::2], scores[:, 1::2], weight[taken], loss).sum()
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
        found = _validation_loss(network, z, data, loss)
        if found < best:
            best, best_epoch, kept = found, epoch, _copy(network)
        if progress:
            progress(epoch, epochs)
        if epoch - best_epoch >= recipe.patience:
            break
    network.load_state_dict(kept)
    return {"validation_loss": best, "linear_validation_loss": linear_loss, "epochs": best_epoch}


@torch.no_grad()
def _validation_loss(network: _Network, z: Float32[Tensor, "n p"], data: PairData, loss: str) -> float:
    """Return the loss of the averaged members on the validation pairs."""
    rows, place = np.unique(data.pairs[data.validation], return_inverse=True)
    scores = network(z[rows]).mean(0)
    index: Int64[np.ndarray, "v 2"] = place.reshape(-1, 2)
    weight = torch.as_tensor(data.weight[data.validation])
    return float(pair_loss(scores[index[:, 0]], scores[index[:, 1]], weight, loss))


def _copy(network: _Network) -> dict[str, Tensor]:
    """Return a copy of the parameters."""
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def _folded(network: _Network, coordinates: Basis) -> dict[str, Float32[np.ndarray, "..."]]:
    """Return the network as one hidden layer on standardised projections."""
    members, p, units = network.weight_1.shape
    with torch.no_grad():
        linear = network.linear.mean(0)
        weight_1 = torch.cat(
            [network.weight_1.permute(1, 0, 2).reshape(p, members * units), linear, -linear], dim=1
        )
        bias_1 = torch.cat([network.bias_1.reshape(-1), torch.zeros(2)])
        weight_2 = torch.cat([network.weight_2.reshape(-1) / members, torch.tensor([1.0, -1.0])])
    return {
        "weight_1": coordinates.to @ weight_1.numpy(),
        "bias_1": bias_1.numpy(),
        "weight_2": weight_2.numpy(),
    }
