"""Directions of an SAE: single rows of its decoder, read alone where the format allows, without sae_lens."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from sparserm_cli.models.checkpoints.safetensors_header import read_header
from sparserm_cli.models.sae.formats import FORMATS
from sparserm_cli.models.sae.formats.base import SCALED_INPUT, plain_name
from sparserm_cli.models.sae.formats.safetensors_rows import read_rows
from sparserm_cli.models.sae.load import find_sae, read_metadata


def load_decoder(
    name: str | Path, latents: Sequence[int], *, offline: bool = False
) -> Float32[np.ndarray, "directions d_in"]:
    """Read the decoder rows of some latents, which are their directions.

    Args:
        name: name of the SAE, as `load_sae` takes it.
        latents: numbers of the latents.
        offline: take a release from the hub's cache only.

    Raises:
        CorruptStoreError: the weight file is broken or has fewer latents.
        UsageError, IncompatibleError, TemporaryError: as `load_sae` raises them.

    """
    files = find_sae(name, offline=offline)
    tensor = FORMATS[files.format].decoder_tensor
    if tensor is not None and read_metadata(files).normalization != SCALED_INPUT:
        names = [name for name in read_header(files.weights) if plain_name(name) == plain_name(tensor)]
        return read_rows(files.weights, names[0] if names else tensor, latents)
    import torch

    from sparserm_cli.models.sae.load import load_sae

    sae = load_sae(name, allow_pickle=True, allow_mismatch=True, offline=offline)
    return sae.W_dec[torch.as_tensor(latents, dtype=torch.int64)].numpy()
