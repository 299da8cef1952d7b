"""The latents of mean vectors, which are not among the features: encoded by the SAE that made these.

Axes: `rows` responses, `d_in` width of the residual stream.
"""

import numpy as np
import torch
from jaxtyping import Float32

from sparserm_cli.config import EncodeConfig
from sparserm_cli.errors import IncompatibleError
from sparserm_cli.models.sae.sparse_encoder import SparseEncoder
from sparserm_cli.stages.encode.worker import load_saes, to_csr
from sparserm_cli.store.arrays.csr import Csr
from sparserm_cli.store.features.plan import SAEFacts


def loaded_encoder(facts: SAEFacts) -> SparseEncoder:
    """Load the SAE that made the features of a layer.

    Raises:
        IncompatibleError: its weights are no longer those that the features were made with.

    """
    options = EncodeConfig(allow_mismatch=True, allow_pickle=True)
    sae = load_saes({facts.layer: facts.name}, options)[facts.layer]
    if sae.digest != facts.digest:
        hint = "restore that SAE or run `sparserm encode --force`"
        raise IncompatibleError(f"{facts.name}: weights", facts.digest, sae.digest, hint)
    return SparseEncoder(sae)


def encoded_means(encoder: SparseEncoder, vectors: Float32[np.ndarray, "rows d_in"]) -> Csr:
    """Return the latents of mean vectors; a vector that could not be computed has none."""
    present = np.isfinite(vectors).all(axis=1)
    filled = np.where(present[:, None], vectors, np.float32(0))
    csr = to_csr([encoder.encode(torch.as_tensor(filled))], encoder.sae.d_sae)
    counts = np.diff(csr.indptr)
    kept = np.repeat(present, counts)
    bounds = np.concatenate([[0], np.cumsum(counts * present, dtype=np.int64)])
    return Csr(csr.data[kept], csr.indices[kept], bounds)
