"""Starting from an SAE that is there: the training begins with what the SAE computes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import sae_files

from sparserm_cli.config.train_sae import SAERecipe
from sparserm_cli.errors import IncompatibleError, UsageError
from sparserm_cli.models.sae.autoencoder import SparseAutoencoder
from sparserm_cli.models.sae.load import load_sae
from sparserm_cli.models.sae.training.start import copy_weights, settle, weighs_by_norm
from sparserm_cli.models.sae.training.trainer import _training_sae

D_IN, D_SAE = 12, 96


def unequal(sae: SparseAutoencoder) -> SparseAutoencoder:
    """Give the decoder rows different lengths."""
    return replace(sae, W_dec=sae.W_dec * torch.linspace(0.5, 2.0, sae.d_sae).unsqueeze(1))


def even(sae: SparseAutoencoder) -> SparseAutoencoder:
    """Give all decoder rows the length 1."""
    return replace(sae, W_dec=sae.W_dec / sae.W_dec.norm(dim=1, keepdim=True))


def weighed(sae: SparseAutoencoder) -> SparseAutoencoder:
    """Let the encoder carry decoder norms, as SAELens' TopK does."""
    norms = sae.W_dec.norm(dim=1)
    return replace(sae, W_enc=sae.W_enc * norms, b_enc=sae.b_enc * norms, decoder_scale=1 / norms)


@pytest.mark.parametrize("shape", [unequal, even, weighed])
@pytest.mark.parametrize("kind", ["topk", "jumprelu", "standard"])
def test_the_first_step_sees_the_sae_itself(kind: str, shape: Any, tmp_path: Path) -> None:
    """Latents and reconstruction of the training SAE, saved before any step, are those of the SAE."""
    start = shape(sae_files.random_sae(kind, D_IN, D_SAE))
    recipe = settle(SAERecipe(), start, l0=9.4)
    assert (recipe.d_sae, recipe.k, recipe.lr) == (D_SAE, 5 if kind == "topk" else 9, 1e-4)
    assert recipe.architecture == ("topk" if kind == "topk" else "jumprelu")
    sae = _training_sae(recipe, D_IN, "cpu", by_norm=weighs_by_norm(start))
    copy_weights(start, sae, 0.3)
    sae.fold_activation_norm_scaling_factor(0.3)
    sae.save_inference_model(tmp_path)
    x = torch.randn(64, D_IN, generator=torch.Generator().manual_seed(1)) * 2 + 1
    saved = load_sae(tmp_path)
    latents, again = start.encode(x), saved.encode(x)
    assert torch.equal(latents > 0, again > 0)
    torch.testing.assert_close(saved.reconstruct(x)[0], start.reconstruct(x)[0], rtol=1e-4, atol=1e-4)


def test_batchtopk_starts_with_the_threshold(tmp_path: Path) -> None:
    """One threshold for all latents is the mean of those that the SAE has."""
    start = even(sae_files.random_sae("jumprelu", D_IN, D_SAE))
    assert start.threshold is not None
    sae = _training_sae(settle(SAERecipe(architecture="batchtopk"), start, l0=9.0), D_IN, "cpu", by_norm=True)
    copy_weights(start, sae, 0.3)
    sae.fold_activation_norm_scaling_factor(0.3)
    sae.save_inference_model(tmp_path)
    saved = load_sae(tmp_path).threshold
    assert saved is not None
    assert saved.tolist() == pytest.approx([float(start.threshold.mean())] * D_SAE, rel=1e-5)


def test_equal_decoder_rows_are_weighed_as_saelens_advises() -> None:
    """Random weights and equally long rows; unequal rows would change which latents are chosen."""
    start = sae_files.random_sae("topk", D_IN, D_SAE)
    assert weighs_by_norm(None)
    assert weighs_by_norm(even(start))
    assert not weighs_by_norm(unequal(start))


REFUSED = {
    "d_sae": ("topk", SAERecipe(d_sae=97), "--d-sae: expected 96, the number of latents of an-sae, found 97"),
    "kind": (
        "topk",
        SAERecipe(architecture="jumprelu"),
        "--architecture: expected topk or batchtopk",
    ),
    "gated": ("gated", SAERecipe(), "--from an-sae: expected a topk, jumprelu or standard SAE of raw act"),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_be_started_from_is_refused(reason: str) -> None:
    """The option, what it may be, and what it is."""
    kind, recipe, message = REFUSED[reason]
    with pytest.raises((UsageError, IncompatibleError), match=message):
        settle(recipe, sae_files.random_sae(kind, D_IN, D_SAE))


def test_recipes_without_a_start_have_defaults() -> None:
    """A new SAE is a TopK of 64."""
    settled = settle(SAERecipe(), None)
    assert (settled.architecture, settled.k, settled.d_sae, settled.lr) == ("topk", 64, None, 2e-3)
    assert settle(SAERecipe(lr=0.5), None).lr == 0.5
