"""Llama Scope and its R1-Distill variant: JumpReLU SAEs whose input is scaled to norm sqrt(d_in)."""

from sparserm_cli.errors import IncompatibleError
from sparserm_cli.models.sae.formats.base import (
    SCALED_INPUT,
    SAEFormat,
    Tensors,
    Weights,
    described,
    linear_weights,
    part,
    positive_number,
    read_settings,
    text,
)
from sparserm_cli.models.sae.metadata import LocalSAE, SAEMetadata, Settings


def read_metadata(files: LocalSAE) -> SAEMetadata:
    """Read `hyperparams.json`; its threshold and scale refer to activations of norm sqrt(d_in)."""
    settings = read_settings(files.folder / "hyperparams.json")
    hook = text(files, settings, "hook_point_in")
    if settings.get("hook_point_out", hook) != hook:
        found = f"{hook} to {settings['hook_point_out']}"
        raise IncompatibleError(files.name, "an SAE of one place", found, "use a residual SAE (R)")
    positive_number(files, settings, "jump_relu_threshold")
    return _scaled(files, settings, hook)


def read_r1_metadata(files: LocalSAE) -> SAEMetadata:
    """Read the `config.json` of R1-Distill; the thresholds are in the weight file."""
    settings = read_settings(files.folder / "config.json")
    return _scaled(files, settings, text(files, settings, "hook_point_in"))


def _scaled(files: LocalSAE, settings: Settings, hook: str | None) -> SAEMetadata:
    """Describe the SAE; its scale is the average norm of the activations, or the factor of the release."""
    average, merged = part(files, settings, "dataset_average_activation_norm"), {**settings, **files.settings}
    if average.get("in") is not None:
        positive_number(files, average, "in")
    elif merged.get("norm_scaling_factor") is not None:
        positive_number(files, merged, "norm_scaling_factor")
    known = average.get("in") is not None or merged.get("norm_scaling_factor") is not None
    return described(
        files,
        "jumprelu",
        hook_name=hook,
        model_name="meta-llama/Llama-3.1-8B",
        normalization="none" if known else SCALED_INPUT,
        settings=merged,
    )


def to_weights(metadata: SAEMetadata, t: Tensors) -> Weights:
    """Scale x to norm sqrt(d_in) on average, and scale the threshold, which all latents share, likewise."""
    import torch

    weights = linear_weights(t)
    scale = _scale(metadata, weights)
    threshold = torch.tensor(float(metadata.settings["jump_relu_threshold"]) * scale)
    return weights._replace(threshold=threshold, scale=scale)


def to_r1_weights(metadata: SAEMetadata, t: Tensors) -> Weights:
    """Scale x likewise; R1-Distill keeps the logarithm of one threshold per latent, in the scaled space."""
    weights = linear_weights(t)
    threshold = t.thresholds("log_jumprelu_threshold").exp()
    return weights._replace(threshold=threshold, scale=_scale(metadata, weights))


def _scale(metadata: SAEMetadata, weights: Weights) -> float:
    """Return the factor of the release table; if it has none, sqrt(d_in) over the average norm, or 1."""
    settings = metadata.settings
    average = (settings.get("dataset_average_activation_norm") or {}).get("in")
    factor = settings.get("norm_scaling_factor") if metadata.format == "llama-scope-r1" else None
    if factor is not None or average is None:
        return float(factor or settings.get("norm_scaling_factor") or 1.0)
    return float(weights.W_enc.shape[0] ** 0.5 / average)


FORMAT = SAEFormat(
    "llama-scope",
    read_metadata,
    to_weights,
    files=("hyperparams.json", "checkpoints/final.safetensors"),
    sae_lens_loaders=("llama_scope",),
)
R1_FORMAT = SAEFormat(
    "llama-scope-r1",
    read_r1_metadata,
    to_r1_weights,
    files=("config.json", "sae_weights.safetensors"),
    sae_lens_loaders=("llama_scope_r1_distill",),
)
