"""Start a training from an existing SAE, such as that of the base model of a tuned model.

A training scales activations by a factor s, and SAELens' training SAEs subtract their b_dec from the input.
For pre = x @ W_enc + b_enc, the weights W_enc / s, b_dec * s and b_enc + b_dec @ W_enc give the same
pre-activations of x * s, and W_dec * s gives the reconstruction times s. So before the first step the
training SAE computes the same as the SAE.

Axes: d_in (width of the residual stream), d_sae (latents).
"""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float32
from torch import Tensor

from sparserm_cli.config.train_sae import SAERecipe
from sparserm_cli.errors import IncompatibleError, UsageError
from sparserm_cli.models.sae.autoencoder import SparseAutoencoder

EQUAL_NORMS = 1e-3
"""Largest relative difference of decoder norms that count as equal; trained SAEs have norm 1."""

NEW_RATE = 2e-3
"""Learning rate of a new SAE: at d_in 576 it beat 8e-4, by an explained variance of 0.855 against 0.842."""
CONTINUED_RATE = 1e-4
"""Learning rate of an SAE that is continued: the shipped SAE explains 0.848 of the variance of HH-RLHF.
After 100 steps on 249 pairs it explains 0.864 of held-out ones, with 5e-4 0.855 and with 2e-3 only 0.826."""

TRAINED_AS = {
    "topk": ("topk", "batchtopk"),
    "jumprelu": ("jumprelu", "batchtopk", "topk"),
    "standard": ("jumprelu", "batchtopk", "topk"),
}
"""Mapping from the architecture of an SAE to those in which its training can continue, the nearest first."""


def settle(recipe: SAERecipe, start: SparseAutoencoder | None, *, l0: float = 0.0) -> SAERecipe:
    """Fill the options that a recipe leaves open.

    Args:
        recipe: the options of the training.
        start: the SAE to start from; None starts from random weights.
        l0: mean number of its active latents per token, for an SAE that has no k.

    Raises:
        IncompatibleError: the SAE has an architecture that is not trained here, or normalises each token.
        UsageError: the recipe sets another number of latents, or an architecture that the SAE cannot become.

    """
    if start is None:
        rate = recipe.lr or NEW_RATE
        return replace(recipe, architecture=recipe.architecture or "topk", k=recipe.k or 64, lr=rate)
    name, own = start.metadata.name, start.metadata.architecture
    if own not in TRAINED_AS or start.normalization != "none":
        found = own if own not in TRAINED_AS else f"normalize_activations {start.normalization}"
        expected = "a topk, jumprelu or standard SAE of raw activations"
        raise IncompatibleError(f"--from {name}", expected, found, "train a new SAE without --from")
    if recipe.d_sae not in {None, start.d_sae}:
        expected = f"{start.d_sae}, the number of latents of {name}"
        raise UsageError("--d-sae", expected, str(recipe.d_sae), "leave --d-sae out")
    if recipe.architecture not in {None, *TRAINED_AS[own]}:
        expected = " or ".join(TRAINED_AS[own]) + f", which a {own} SAE can become"
        raise UsageError("--architecture", expected, str(recipe.architecture), "leave --architecture out")
    architecture: Any = recipe.architecture or TRAINED_AS[own][0]
    k = recipe.k or start.k or max(1, round(l0))
    rate = recipe.lr or CONTINUED_RATE
    return replace(recipe, architecture=architecture, d_sae=start.d_sae, k=k, lr=rate)


def weighs_by_norm(start: SparseAutoencoder | None) -> bool:
    """Return whether latents may be chosen by pre-activation times decoder norm, as SAELens advises.

    This differs from the SAE's own choice unless its decoder rows have equal norms.
    """
    if start is None:
        return True
    norms = _directions(start).norm(dim=1)
    return float(norms.max() - norms.min()) <= EQUAL_NORMS * float(norms.mean())


@torch.no_grad()
def copy_weights(start: SparseAutoencoder, sae: Any, scale: float) -> None:
    """Give a training SAE the weights of `start`.

    Args:
        start: the SAE to start from.
        sae: SAELens' training SAE of the same sizes.
        scale: factor of the activations during training.

    """
    b_enc = start.b_enc.double() + start.b_dec.double() @ start.W_enc.double()
    directions = _directions(start) * scale
    sae.W_enc.copy_(start.W_enc / scale)
    sae.b_enc.copy_(b_enc.to(start.b_enc))
    sae.W_dec.copy_(directions)
    sae.b_dec.copy_(start.b_dec * scale)
    threshold = start.threshold if start.threshold is not None else torch.zeros(start.d_sae)
    if hasattr(sae, "topk_threshold"):
        weight = directions.norm(dim=1).mean() if sae.cfg.rescale_acts_by_decoder_norm else torch.ones(())
        sae.topk_threshold.fill_(float(threshold.mean() * weight))
    elif hasattr(sae, "threshold"):
        sae.threshold.copy_(threshold)


def _directions(start: SparseAutoencoder) -> Float32[Tensor, "d_sae d_in"]:
    """Return the vectors that latents of value 1 add to the reconstruction."""
    return start.W_dec if start.decoder_scale is None else start.W_dec * start.decoder_scale.unsqueeze(1)
