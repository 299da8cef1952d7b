"""SAEs of every kind, small and random, built without any file."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from sparserm_cli.models.sae.autoencoder import SparseAutoencoder
from sparserm_cli.models.sae.metadata import SAEMetadata


def metadata(architecture: str, d_in: int, d_sae: int, **changes: Any) -> SAEMetadata:
    """Return metadata of an SAE of `blocks.1.hook_resid_post` of a model called tiny."""
    base = SAEMetadata(
        "an-sae",
        "saelens",
        architecture,
        d_in,
        d_sae,
        "blocks.1.hook_resid_post",
        "tiny",
        "float32",
        "none",
        {},
    )
    return base._replace(**changes)


def random_sae(kind: str, d_in: int = 12, d_sae: int = 96, *, seed: int = 0, k: int = 5) -> SparseAutoencoder:
    """Return an SAE with random weights whose latents fire on about a tenth of the rows."""
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(d_in, d_sae, generator=generator) / d_in**0.5
    more: dict[str, Any] = {}
    if kind == "topk":
        more = {"k": k}
    elif kind == "jumprelu":
        more = {"threshold": torch.rand(d_sae, generator=generator) + 0.8}
    elif kind == "gated":
        scale = torch.rand(d_sae, generator=generator) + 0.5
        more = {"magnitude_scale": scale, "magnitude_shift": torch.randn(d_sae, generator=generator) * 0.3}
    bias = torch.randn(d_sae, generator=generator) * 0.1 - (1.2 if kind in {"standard", "gated"} else 0.0)
    b_dec = torch.randn(d_in, generator=generator)
    return SparseAutoencoder(metadata(kind, d_in, d_sae), "xxh3:0", w, bias, w.T.contiguous(), b_dec, **more)


def perfect_sae(
    d_in: int, *, hook: str = "blocks.1.hook_resid_post", model: str = "tiny"
) -> SparseAutoencoder:
    """Return the ReLU SAE with latents for every axis both ways: exact reconstruction, L0 of d_in."""
    both = torch.cat([torch.eye(d_in), -torch.eye(d_in)], dim=1)
    sae_metadata = metadata("standard", d_in, 2 * d_in, hook_name=hook, model_name=model)
    return SparseAutoencoder(
        sae_metadata, "xxh3:1", both, torch.zeros(2 * d_in), both.T.contiguous(), torch.zeros(d_in)
    )


def save_sae(folder: Path, sae: SparseAutoencoder, **changes: Any) -> str:
    """Write an SAE in SAELens' format and return where it is."""
    folder.mkdir(parents=True, exist_ok=True)
    sae_metadata = sae.metadata
    config = {"architecture": sae_metadata.architecture, "d_in": sae.d_in, "d_sae": sae.d_sae, "k": sae.k}
    names = {
        "sae_lens_version": "6.0.0",
        "hook_name": sae_metadata.hook_name,
        "model_name": sae_metadata.model_name,
    }
    config |= {"dtype": "float32", "apply_b_dec_to_input": False, "metadata": names}
    (folder / "cfg.json").write_text(json.dumps(config | changes))
    tensors = {name: getattr(sae, name) for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")}
    save_file({k: v for k, v in tensors.items() if v is not None}, folder / "sae_weights.safetensors")
    return str(folder)
