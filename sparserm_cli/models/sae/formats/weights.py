"""Read a weight file and convert it to the form of `SparseAutoencoder`.

Everything linear is folded into W_enc and b_enc here: the b_dec that is subtracted from the input, a scale of
the input, and decoder norms that weight the pre-activations. Biases are summed in float64.
Axes: d_in (width of the residual stream), d_sae (latents).
"""

import pickle
import zipfile
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sparserm_cli.errors import CorruptStoreError, IncompatibleError
from sparserm_cli.models.checkpoints.safetensors_header import check_whole, read_header
from sparserm_cli.models.sae.autoencoder import SparseAutoencoder
from sparserm_cli.models.sae.compatibility import DTYPES, PICKLED, check_normalization, check_pickle
from sparserm_cli.models.sae.formats import FORMATS
from sparserm_cli.models.sae.formats.base import Tensors, Weights
from sparserm_cli.models.sae.metadata import LocalSAE, SAEMetadata, sae_digest

LEAST_NORM = 1e-8
"""SAELens' lower bound on the norm of a decoder row."""
COLUMNS_AT_ONCE = 4096
"""Number of latents whose encoder weights are widened to float64 at a time."""


def read_weights(
    files: LocalSAE, metadata: SAEMetadata, *, allow_pickle: bool = False, allow_mismatch: bool = False
) -> SparseAutoencoder:
    """Read the weight file and fold its linear parts.

    Raises:
        IncompatibleError: the file is broken, pickled without `allow_pickle`, of an unknown dtype, or lacks
            its scale.

    """
    check_normalization(metadata, allow_mismatch=allow_mismatch)
    tensors = _read_tensors(files, allow_pickle=allow_pickle)
    weights = FORMATS[files.format].to_weights(metadata, tensors)
    return fold(weights, metadata, sae_digest(files, metadata))


def fold(weights: Weights, metadata: SAEMetadata, digest: str) -> SparseAutoencoder:
    """Fold all that is linear into W_enc and b_enc, and check the shapes.

    Raises:
        IncompatibleError: the shapes do not fit together or do not fit the metadata.

    """
    d_in, d_sae = weights.W_enc.shape
    _check_shapes(weights, metadata)
    w_enc, w_dec, bias = _float(weights.W_enc), _float(weights.W_dec), weights.b_enc.double()
    if weights.subtract_b_dec:
        bias = bias - _product(weights.b_dec, w_enc)
    threshold = weights.threshold
    if weights.scale != 1.0:
        w_enc, w_dec = w_enc * weights.scale, w_dec / weights.scale
    norms = w_dec.double().norm(dim=1).clamp(min=LEAST_NORM) if weights.by_norm else None
    if norms is not None:  # SAELens folds the scale first, so norms and threshold apply after it
        w_enc, bias = w_enc * _float(norms), bias * norms
        threshold = None if threshold is None else threshold / weights.scale
    factor = shift = None
    if weights.r_mag is not None and weights.b_mag is not None:
        factor = weights.r_mag.double().exp()
        shift = weights.b_mag.double() - weights.b_enc.double() * factor
    return SparseAutoencoder(
        metadata=metadata._replace(d_in=d_in, d_sae=d_sae),
        digest=digest,
        W_enc=w_enc,
        b_enc=_float(bias),
        W_dec=w_dec,
        b_dec=_float(weights.b_dec.double() / weights.scale),
        threshold=None if threshold is None else _float(threshold).expand(d_sae).contiguous(),
        k=None if weights.k is None else min(weights.k, d_sae),
        magnitude_scale=None if factor is None else _float(factor),
        magnitude_shift=None if shift is None else _float(shift),
        decoder_scale=None if norms is None else _float(1 / norms),
        normalization=_by_row(metadata.normalization),
    )


def _check_shapes(weights: Weights, metadata: SAEMetadata) -> None:
    """Check all shapes against that of W_enc, and that against the metadata; raises IncompatibleError."""
    d_in, d_sae = weights.W_enc.shape
    sizes = (metadata.d_in or d_in, metadata.d_sae or d_sae)
    wanted = {"W_enc": sizes, "W_dec": sizes[::-1], "b_enc": sizes[1:], "b_dec": sizes[:1]}
    wanted |= {"r_mag": sizes[1:], "b_mag": sizes[1:]}
    if weights.threshold is not None and weights.threshold.ndim:
        wanted["threshold"] = sizes[1:]
    for name, shape in wanted.items():
        tensor = getattr(weights, name)
        if tensor is not None and tuple(tensor.shape) != shape:
            expected, found = f"{name} of shape {shape}", str(tuple(tensor.shape))
            raise IncompatibleError(metadata.name, expected, found, "download it again")


def _product(vector: Tensor, matrix: Tensor) -> Tensor:
    """Return vector @ matrix in float64, without widening the whole matrix at once."""
    wide = vector.double()
    return torch.cat([wide @ block.double() for block in matrix.split(COLUMNS_AT_ONCE, dim=1)])


def _float(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float32).contiguous()


def _by_row(normalization: str) -> Literal["none", "constant_norm_rescale", "layer_norm"]:
    if normalization == "constant_norm_rescale":
        return "constant_norm_rescale"
    return "layer_norm" if normalization == "layer_norm" else "none"


def _read_tensors(files: LocalSAE, *, allow_pickle: bool) -> Tensors:
    """Read all tensors of a weight file; floating-point tensors must have a known type."""
    where = str(files.weights)
    check_whole(files.weights)
    check_pickle(files, allow_pickle=allow_pickle)
    if files.weights.suffix in PICKLED:
        tensors = _unpickled(files.weights)
    elif files.weights.suffix == ".npz":
        try:
            with np.load(files.weights, allow_pickle=False) as data:
                tensors = {name: torch.from_numpy(np.asarray(data[name])) for name in data}
        except (OSError, ValueError, TypeError, zipfile.BadZipFile) as error:
            found = str(error).splitlines()[0]
            raise IncompatibleError(where, "a file of arrays", found, "download it again") from None
    else:
        read_header(files.weights)
        try:
            tensors = load_file(files.weights)
        except SafetensorError as error:
            found = str(error).splitlines()[0]
            raise CorruptStoreError(where, "a safetensors file", found, "download it again") from None
    for name, tensor in tensors.items():
        word = str(tensor.dtype).removeprefix("torch.")
        if tensor.is_floating_point() and word not in DTYPES:
            raise IncompatibleError(f"{where}: {name}", "one of " + ", ".join(DTYPES), word, "convert it")
    return Tensors(where, tensors)


def _unpickled(path: Path) -> dict[str, Tensor]:
    """Read a pickled file with torch's weights-only loader; it must be a dictionary of tensors."""
    expected = "a file of tensors and nothing else"
    try:
        value = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError) as error:
        found = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise IncompatibleError(str(path), expected, found, "do not load it") from None
    value = value.get("state_dict", value) if isinstance(value, dict) else value
    if not isinstance(value, dict) or not all(isinstance(tensor, Tensor) for tensor in value.values()):
        raise IncompatibleError(str(path), expected, type(value).__name__, "save its state_dict alone")
    return {str(name): tensor for name, tensor in value.items()}
