"""The weights of each format, brought to the one form of `SparseAutoencoder` by the format's own formula.

Everything that is linear is folded into W_enc and b_enc here: a b_dec subtracted from the input, a scale of
the input, decoder norms that weigh pre-activations. Biases are added up in float64.
Axes: d_in (width of the residual stream), d_sae (latents).
"""

import pickle
import zipfile
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from sparserm_cli.errors import IncompatibleError
from sparserm_cli.models.sae import SparseAutoencoder
from sparserm_cli.models.sae_files import LocalSAE, SAEMetadata, sae_digest
from sparserm_cli.models.sae_match import DTYPES
from sparserm_cli.models.sae_metadata import read_sae_metadata
from sparserm_cli.models.safetensors_file import read_header

__all__ = ["Weights", "check_normalization", "fold", "read_sae_metadata", "read_weights"]

COLUMNS_AT_ONCE = 4096
"""Latents whose encoder weights are widened to float64 together."""


class Weights(NamedTuple):
    """An SAE in the words of its formula.

    Fields:
        W_enc: (d_in, d_sae).
        b_enc: (d_sae,); of a gated SAE the gate's bias.
        W_dec: (d_sae, d_in).
        b_dec: (d_in,).
        subtract_b_dec: the encoder sees x - b_dec.
        threshold: jumprelu.
        k: topk.
        by_norm: pre-activations are multiplied by the norm of their decoder row, latents divided by it.
        scale: the encoder sees x * scale, and the output is divided by it.
        r_mag: gated.
        b_mag: gated.
    """

    W_enc: Tensor
    b_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor
    subtract_b_dec: bool = False
    threshold: Tensor | None = None
    k: int | None = None
    by_norm: bool = False
    scale: float = 1.0
    r_mag: Tensor | None = None
    b_mag: Tensor | None = None


Tensors = Mapping[str, Tensor]


def read_weights(
    files: LocalSAE, metadata: SAEMetadata, *, allow_pickle: bool = False, allow_mismatch: bool = False
) -> SparseAutoencoder:
    """Read the weight file and fold its formula.

    Raises:
        IncompatibleError: broken, pickled without `allow_pickle`, of an unknown dtype, or without its scale.

    """
    check_normalization(metadata, allow_mismatch=allow_mismatch)
    tensors = _read_tensors(files, allow_pickle=allow_pickle)
    readers: Mapping[str, Callable[[SAEMetadata, Tensors], Weights]] = {
        "saelens": _saelens,
        "gemma-scope": _gemma_scope,
        "gemma-scope-2": _gemma_scope,
        "llama-scope": _llama_scope,
        "llama-scope-r1": _llama_scope_r1,
        "dictionary-learning": _dictionary_learning,
        "qwen-scope": _qwen_scope,
        "sparsify": _sparsify,
    }
    try:
        weights = readers[files.format](metadata, tensors)
        return fold(weights, metadata, sae_digest(files, metadata))
    except KeyError as error:
        expected = f"a tensor {error} as {files.format} has it"
        hint = "download the SAE again, or check its format"
        raise IncompatibleError(str(files.weights), expected, ", ".join(sorted(tensors)), hint) from None
    except RuntimeError as error:  # torch's word for shapes that do not fit
        found = str(error).splitlines()[0]
        raise IncompatibleError(
            str(files.weights), "weights of fitting shapes", found, "download it again"
        ) from None


def check_normalization(metadata: SAEMetadata, *, allow_mismatch: bool = False) -> None:
    """Refuse an SAE whose input must be scaled by a number that nobody recorded, or in a way unknown here.

    Raises:
        IncompatibleError: it is such an SAE; the first kind is accepted with `allow_mismatch`, unscaled, as
            SAELens does it.

    """
    where = f"{metadata.name}: normalize_activations"
    known = ("none", "constant_norm_rescale", "layer_norm")
    if metadata.normalization in known:
        return
    if metadata.normalization != "expected_average_only_in":
        raise IncompatibleError(
            where, "one of " + ", ".join(known), metadata.normalization, "use another SAE"
        )
    if metadata.settings.get("norm_scaling_factor") is None and not allow_mismatch:
        hint = "save the SAE with the factor folded into its weights, or give --allow-mismatch to go without"
        raise IncompatibleError(
            where, "none, or a norm_scaling_factor", "expected_average_only_in without one", hint
        )


def fold(weights: Weights, metadata: SAEMetadata, digest: str) -> SparseAutoencoder:
    """Fold all that is linear into W_enc and b_enc, and check the shapes.

    Raises:
        IncompatibleError: shapes that do not fit together or the metadata.

    """
    d_in, d_sae = weights.W_enc.shape
    told = (metadata.d_in or d_in, metadata.d_sae or d_sae)
    if (d_in, d_sae) != told or weights.W_dec.shape != (d_sae, d_in):
        found = f"W_enc {tuple(weights.W_enc.shape)} and W_dec {tuple(weights.W_dec.shape)}"
        raise IncompatibleError(
            metadata.name, f"W_enc {told} and its transpose's shape", found, "download it again"
        )
    w_enc, w_dec, bias = _float(weights.W_enc), _float(weights.W_dec), weights.b_enc.double()
    if weights.subtract_b_dec:
        bias = bias - _product(weights.b_dec, w_enc)
    norms = w_dec.double().norm(dim=1) if weights.by_norm else None
    if norms is not None:
        w_enc, bias = w_enc * _float(norms), bias * norms
    if weights.scale != 1.0:
        w_enc, w_dec = w_enc * weights.scale, w_dec / weights.scale
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
        threshold=None if weights.threshold is None else _float(weights.threshold).expand(d_sae).contiguous(),
        k=None if weights.k is None else min(weights.k, d_sae),
        magnitude_scale=None if factor is None else _float(factor),
        magnitude_shift=None if shift is None else _float(shift),
        decoder_scale=None if norms is None else _float(1 / norms),
        normalization=_by_row(metadata.normalization),
    )


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


def _read_tensors(files: LocalSAE, *, allow_pickle: bool) -> dict[str, Tensor]:
    """Read all tensors of a weight file; floating-point ones must be of a known type."""
    where = str(files.weights)
    if files.weights.suffix == ".pt":
        if not allow_pickle:
            hint = "convert it to safetensors, or give --allow-pickle if you trust its origin"
            raise IncompatibleError(where, "safetensors weights", "pickled ones", hint)
        try:
            tensors = torch.load(files.weights, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
            found = str(error).splitlines()[0]
            raise IncompatibleError(
                where, "a file of tensors and nothing else", found, "do not load it"
            ) from None
    elif files.weights.suffix == ".npz":
        try:
            with np.load(files.weights, allow_pickle=False) as data:
                tensors = {name: torch.from_numpy(np.asarray(data[name])) for name in data}
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            found = str(error).splitlines()[0]
            raise IncompatibleError(where, "a file of arrays", found, "download it again") from None
    else:
        read_header(files.weights)
        tensors = load_file(files.weights)
    for name, tensor in tensors.items():
        word = str(tensor.dtype).removeprefix("torch.")
        if tensor.is_floating_point() and word not in DTYPES:
            raise IncompatibleError(f"{where}: {name}", "one of " + ", ".join(DTYPES), word, "convert it")
    return dict(tensors)


def _saelens(metadata: SAEMetadata, t: Tensors) -> Weights:
    """SAELens: act((norm(x) - b_dec [if applied]) @ W_enc + b_enc), weighed by decoder norms if told."""
    settings = metadata.settings
    scaling = t.get("scaling_factor")
    if scaling is not None and not torch.allclose(scaling.float(), torch.ones(())):
        found = "other numbers"
        raise IncompatibleError(
            f"{metadata.name}: scaling_factor", "ones", found, "fold it into W_dec with SAELens 5"
        )
    gated = metadata.architecture == "gated"
    factor = settings.get("norm_scaling_factor")
    return Weights(
        t["W_enc"],
        t["b_gate"] if gated else t["b_enc"],
        t["W_dec"],
        t["b_dec"],
        subtract_b_dec=bool(settings.get("apply_b_dec_to_input", True)),
        threshold=t["threshold"] if metadata.architecture == "jumprelu" else None,
        k=int(settings["k"]) if metadata.architecture == "topk" else None,
        by_norm=metadata.architecture == "topk" and bool(settings.get("rescale_acts_by_decoder_norm")),
        scale=float(factor)
        if factor is not None and metadata.normalization == "expected_average_only_in"
        else 1.0,
        r_mag=t["r_mag"] if gated else None,
        b_mag=t["b_mag"] if gated else None,
    )


def _gemma_scope(_metadata: SAEMetadata, t: Tensors) -> Weights:
    """Gemma Scope 1 and 2: relu(pre) where pre = x @ w_enc + b_enc > threshold."""
    return Weights(t["w_enc"], t["b_enc"], t["w_dec"], t["b_dec"], threshold=t["threshold"])


def _llama_scope(metadata: SAEMetadata, t: Tensors) -> Weights:
    """Llama Scope: x is scaled to norm sqrt(d_in) on average, and the one threshold with it."""
    w_enc, settings = t["encoder.weight"].T, metadata.settings
    scale = w_enc.shape[0] ** 0.5 / float(settings["dataset_average_activation_norm"]["in"])
    threshold = torch.tensor(float(settings["jump_relu_threshold"]) * scale)
    w_dec, b_dec = t["decoder.weight"].T, t["decoder.bias"]
    return Weights(w_enc, t["encoder.bias"], w_dec, b_dec, threshold=threshold, scale=scale)


def _llama_scope_r1(metadata: SAEMetadata, t: Tensors) -> Weights:
    """Llama Scope R1-Distill: the same with a log threshold a latent, in the scaled space."""
    w_enc, settings = t["encoder.weight"].T, metadata.settings
    average = (settings.get("dataset_average_activation_norm") or {}).get("in")
    scale = settings.get("norm_scaling_factor") or (w_enc.shape[0] ** 0.5 / average if average else 1.0)
    threshold = t["log_jumprelu_threshold"].float().exp()
    w_dec, b_dec = t["decoder.weight"].T, t["decoder.bias"]
    return Weights(w_enc, t["encoder.bias"], w_dec, b_dec, threshold=threshold, scale=float(scale))


def _qwen_scope(metadata: SAEMetadata, t: Tensors) -> Weights:
    """Qwen Scope: the k largest of x @ W_enc.T + b_enc; the file holds both matrices transposed."""
    return Weights(t["W_enc"].T, t["b_enc"], t["W_dec"].T, t["b_dec"], k=int(metadata.settings["k"]))


def _sparsify(metadata: SAEMetadata, t: Tensors) -> Weights:
    """sparsify: the k largest of relu((x - b_dec) @ encoder.weight.T + encoder.bias); W_dec lies as ours."""
    k = int(metadata.settings["k"])
    return Weights(t["encoder.weight"].T, t["encoder.bias"], t["W_dec"], t["b_dec"], subtract_b_dec=True, k=k)


def _dictionary_learning(metadata: SAEMetadata, t: Tensors) -> Weights:
    """dictionary_learning's classes, each as its `encode` computes it."""
    kind = metadata.settings["dict_class"]
    if kind in {"JumpReluAutoEncoder", "MatryoshkaBatchTopKSAE"}:
        subtract = kind == "MatryoshkaBatchTopKSAE"
        return Weights(
            t["W_enc"], t["b_enc"], t["W_dec"], t["b_dec"], subtract_b_dec=subtract, threshold=t["threshold"]
        )
    w_enc, w_dec = t["encoder.weight"].T, t["decoder.weight"].T
    if kind == "GatedAutoEncoder":
        gate, mag = t["gate_bias"], t["mag_bias"]
        return Weights(
            w_enc, gate, w_dec, t["decoder_bias"], subtract_b_dec=True, r_mag=t["r_mag"], b_mag=mag
        )
    if kind == "AutoEncoderNew":
        return Weights(w_enc, t["encoder.bias"], w_dec, t["decoder.bias"])
    b_dec = t["bias"] if kind == "AutoEncoder" else t["b_dec"]
    threshold = t["threshold"] if kind == "BatchTopKSAE" else None
    k = int(t["k"]) if kind == "AutoEncoderTopK" else None
    return Weights(w_enc, t["encoder.bias"], w_dec, b_dec, subtract_b_dec=True, threshold=threshold, k=k)
