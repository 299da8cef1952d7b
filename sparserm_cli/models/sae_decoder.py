"""Directions of an SAE: some rows of its decoder, read alone where the format allows. No sae_lens."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from sparserm_cli.models.sae_metadata import find_sae, read_metadata
from sparserm_cli.models.safetensors_file import read_rows

ROW_FORMATS = {"saelens": "W_dec", "sparsify": "W_dec", "gemma-scope-2": "w_dec"}
"""Formats whose safetensors hold the directions as rows -> the tensor's name."""


def load_decoder(
    name: str | Path, latents: Sequence[int], *, offline: bool = False
) -> Float32[np.ndarray, "directions d_in"]:
    """Read the decoder rows of some latents; those are their directions.

    Args:
        name: as `load_sae` takes it.
        latents: their numbers.
        offline: take a release from the hub's cache only.

    Raises:
        CorruptStoreError: the weight file is broken or has fewer latents.
        UsageError, IncompatibleError, TemporaryError: as `load_sae`.

    """
    files = find_sae(name, offline=offline)
    tensor = ROW_FORMATS.get(files.format)
    if tensor is not None and read_metadata(files).normalization != "expected_average_only_in":
        return read_rows(files.weights, tensor, latents)
    import torch

    from sparserm_cli.models.sae import load_sae

    sae = load_sae(name, allow_pickle=True, allow_mismatch=True, offline=offline)
    return sae.W_dec[torch.as_tensor(latents, dtype=torch.int64)].numpy()
