"""Train an SAE with SAELens' own trainer and training classes, and save it in SAELens' format.

Activations are scaled to a mean norm of sqrt(d_in) during training. The scale is folded into the weights
afterwards, so a saved SAE takes raw activations (`normalize_activations: none`).
Axes: rows (tokens), d_in (width of the residual stream), d_sae (latents).
"""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from sparserm_cli.config.train_sae import SAERecipe
from sparserm_cli.errors import UsageError
from sparserm_cli.models.lm.devices import choose_dtype
from sparserm_cli.models.sae.autoencoder import SparseAutoencoder
from sparserm_cli.models.sae.training.sae_lens_noise import silence_sae_lens
from sparserm_cli.models.sae.training.shuffle_buffer import ShuffleBuffer
from sparserm_cli.models.sae.training.start import copy_weights, weighs_by_norm

Progress = Callable[[int, int, float], None]
"""Called with the steps done, all steps, and the explained variance of a recent batch."""

STEPS_PER_MEASUREMENT = 50
"""Number of steps between two measurements of the explained variance."""


class TrainedSAE(NamedTuple):
    """The result of a training, in memory.

    Fields:
        sae: SAELens' training SAE with its scale folded, ready for `save_inference_model`.
        scale: factor of the activations during training.
        seconds: duration of the training in seconds.
    """

    sae: Any
    scale: float
    seconds: float


def train(
    batches: ShuffleBuffer,
    recipe: SAERecipe,
    *,
    start: SparseAutoencoder | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> TrainedSAE:
    """Train one SAE.

    Args:
        batches: activations without sink tokens.
        recipe: the options of the training, all of them filled.
        start: the SAE to start from; None starts from random weights.
        device: torch device.
        progress: called after every step.

    Raises:
        UsageError: the training diverged.

    """
    with silence_sae_lens():
        from sae_lens.training.sae_trainer import SAETrainer
    d_in = batches.rows.shape[1]
    mean, scale = _mean_and_scale(batches.rows)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        sae = _training_sae(recipe, d_in, device, by_norm=weighs_by_norm(start))
    if start is None:  # starting at the mean, no latent has to represent it
        sae.b_dec.data = (mean * scale).to(sae.b_dec)
    else:
        copy_weights(start, sae, scale)
    trainer = SAETrainer(_trainer_config(recipe, device), sae, iter(batches))
    trainer.activation_scaler.scaling_factor = scale
    for group in trainer.optimizer.param_groups:
        group["fused"] = True  # one pass over the weights per step, with unchanged arithmetic
    started = time.monotonic()
    explained = 0.0
    for step in range(recipe.steps):
        output = trainer.step(next(trainer.data_provider))
        trainer.n_training_steps += 1
        if step % STEPS_PER_MEASUREMENT == 0:
            explained = _explained_variance(output.sae_in, output.sae_out.detach())
        if progress is not None:
            progress(step + 1, recipe.steps, explained)
    if not all(bool(weights.isfinite().all()) for weights in sae.parameters()):
        raise UsageError("--lr", "a rate that the training survives", str(recipe.lr), "lower it")
    sae.fold_activation_norm_scaling_factor(scale)
    return TrainedSAE(sae, scale, time.monotonic() - started)


def save(trained: TrainedSAE, folder: Path, *, weights_dtype: str, metadata: Mapping[str, Any]) -> None:
    """Write `cfg.json` and `sae_weights.safetensors` as SAELens' `SAE.load_from_disk` reads them.

    The configuration names float32 whatever the type of the stored weights, because SAELens computes in
    float32, and bfloat16 weights widen to it without loss.

    Args:
        trained: the result of `train`.
        folder: an existing folder.
        weights_dtype: `float32` or `bfloat16`.
        metadata: metadata of the SAE, such as model, hook and data.

    """
    weights_path, config_path = trained.sae.save_inference_model(folder)
    number = getattr(torch, weights_dtype)
    weights = {
        name: value.detach().to(number).contiguous() for name, value in load_file(weights_path).items()
    }
    save_file(weights, weights_path)
    weights_path.chmod(config_path.stat().st_mode)  # safetensors makes files that only their owner may read
    config = json.loads(config_path.read_text(encoding="utf-8"))
    if config.get("rescale_acts_by_decoder_norm"):
        # SAELens has just folded the norms, so every row has norm 1.
        config["rescale_acts_by_decoder_norm"] = False
    config["device"] = "cpu"
    config["metadata"]["sparserm"] = {"weights_dtype": weights_dtype}
    config_path.write_text(json.dumps(config), encoding="utf-8")
    add_metadata(folder, metadata)


def add_metadata(folder: Path, metadata: Mapping[str, Any]) -> None:
    """Add fields to the metadata in a folder's `cfg.json`; fields under `sparserm` are merged."""
    path = folder / "cfg.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    own = {**config["metadata"]["sparserm"], **metadata.get("sparserm", {})}
    config["metadata"] |= {**metadata, "sparserm": own}
    path.write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def _explained_variance(x: Float[Tensor, "rows d_in"], out: Float[Tensor, "rows d_in"]) -> float:
    """Return the share of a batch's variance that the reconstruction explains."""
    errors = (x.float() - out.float()).square().sum()
    return 1 - float(errors / (x.float() - x.float().mean(dim=0)).square().sum())


def _mean_and_scale(rows: Float[Tensor, "rows d_in"]) -> tuple[Float[Tensor, " d_in"], float]:
    """Return the mean vector and the factor that makes the mean norm sqrt(d_in)."""
    total = torch.zeros(rows.shape[1], dtype=torch.float64)
    norms = 0.0
    for block in rows.split(65536):
        total += block.sum(dim=0, dtype=torch.float64)
        norms += float(block.float().norm(dim=1).sum())
    return (total / len(rows)).float(), rows.shape[1] ** 0.5 * len(rows) / norms


def _training_sae(recipe: SAERecipe, d_in: int, device: str, *, by_norm: bool) -> Any:
    """Build SAELens' training SAE for the architecture."""
    with silence_sae_lens():
        from sae_lens.saes import batchtopk_sae, jumprelu_sae, topk_sae
    # The factor is set before training and folded after it, which SAELens does for this normalisation only.
    common = {
        "d_in": d_in,
        "d_sae": recipe.d_sae or 8 * d_in,
        "device": device,
        "normalize_activations": "expected_average_only_in",
        "apply_b_dec_to_input": True,
    }
    if recipe.architecture == "topk":
        chosen = topk_sae.TopKTrainingSAEConfig(**common, k=recipe.k, rescale_acts_by_decoder_norm=by_norm)
        return topk_sae.TopKTrainingSAE(chosen)
    if recipe.architecture == "batchtopk":
        return batchtopk_sae.BatchTopKTrainingSAE(
            batchtopk_sae.BatchTopKTrainingSAEConfig(
                **common, k=float(recipe.k or 0), rescale_acts_by_decoder_norm=by_norm
            )
        )
    config = jumprelu_sae.JumpReLUTrainingSAEConfig(
        **common,
        jumprelu_sparsity_loss_mode="quadratic",
        target_l0=float(recipe.k or 0),
        l0_coefficient=recipe.l0_coefficient,
        l0_warm_up_steps=max(1, recipe.steps // 5),
    )
    return jumprelu_sae.JumpReLUTrainingSAE(config)


def _trainer_config(recipe: SAERecipe, device: str) -> Any:
    """Build the trainer's settings: linear decay over the last fifth, no logging service, no checkpoints."""
    with silence_sae_lens():
        from sae_lens.config import SAETrainerConfig
    faster, _ = choose_dtype("auto", device)
    return SAETrainerConfig(
        total_training_samples=recipe.steps * recipe.batch_rows,
        train_batch_size_samples=recipe.batch_rows,
        lr=recipe.lr,
        lr_end=recipe.lr,  # where the decay starts
        lr_warm_up_steps=min(recipe.warm_up_steps, recipe.steps // 2),
        lr_decay_steps=recipe.steps // 5,
        device=device,
        autocast=faster is torch.bfloat16 if recipe.autocast is None else recipe.autocast,
        dead_feature_window=max(100, recipe.steps // 8),
        feature_sampling_window=recipe.steps + 1,
    )
