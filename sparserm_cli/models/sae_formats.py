"""The weights of each format, brought to the one form of `SparseAutoencoder` by the format's own formula.

Everything that is linear is folded into W_enc and b_enc here: a b_dec subtracted from the input, a scale of
the input, decoder norms that weigh pre-activations. Biases are added up in float64.
Axes: d_in (width of the residual stream), d_sae (latents).
"""

import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sparserm_cli.errors import CorruptStoreError, IncompatibleError
from sparserm_cli.models.sae import SparseAutoencoder
from sparserm_cli.models.sae_files import LocalSAE, SAEMetadata, plain_name, sae_digest
from sparserm_cli.models.sae_match import DTYPES, PICKLED, check_normalization, check_pickle
from sparserm_cli.models.safetensors_file import check_whole, read_header

LEAST_NORM = 1e-8
"""SAELens' lower bound of a decoder row's norm."""
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


class Tensors(dict[str, Tensor]):
    """The tensors of a weight file; a missing one, or one that is no matrix or vector, is named.

    Args:
        where: the file.
        tensors: what is in it.

    """

    def __init__(self, where: str, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(tensors)
        self.where = where

    def matrix(self, name: str) -> Tensor:
        """Return a matrix; raises IncompatibleError."""
        return self._of(name, "a matrix", {2})

    def vector(self, name: str) -> Tensor:
        """Return a vector; raises IncompatibleError."""
        return self._of(name, "a vector", {1})

    def thresholds(self, name: str) -> Tensor:
        """Return one number, or one for each latent, in float32; raises IncompatibleError."""
        return self._of(name, "a number or a vector", {0, 1}).float()

    def whole_number(self, name: str) -> int:
        """Return a single whole number above 0; raises IncompatibleError."""
        value = self._of(name, "a number", {0}).item()
        if not value > 0 or value != int(value):
            raise self._broken(f"{name} as a whole number above 0", str(value))
        return int(value)

    def _of(self, name: str, kind: str, axes: set[int]) -> Tensor:
        if name not in self:
            raise self._broken(f"a tensor {name}", ", ".join(sorted(self)) or "no tensor at all")
        tensor = self[name]
        if tensor.ndim not in axes or tensor.numel() == 0:
            raise self._broken(f"{name} as {kind}", f"shape {tuple(tensor.shape)}")
        if bool(tensor.isnan().any()):
            raise self._broken(f"{name} of numbers", "NaN in it")
        return tensor

    def _broken(self, expected: str, found: str) -> IncompatibleError:
        return IncompatibleError(self.where, expected, found, "download the SAE again, or check its format")


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
        "goodfire": _goodfire,
        "saelens": _saelens,
        "gemma-scope": _gemma_scope,
        "gemma-scope-2": _gemma_scope,
        "llama-scope": _llama_scope,
        "llama-scope-r1": _llama_scope_r1,
        "dictionary-learning": _dictionary_learning,
        "qwen-scope": _qwen_scope,
        "sparsify": _sparsify,
    }
    return fold(readers[files.format](metadata, tensors), metadata, sae_digest(files, metadata))


def fold(weights: Weights, metadata: SAEMetadata, digest: str) -> SparseAutoencoder:
    """Fold all that is linear into W_enc and b_enc, and check the shapes.

    Raises:
        IncompatibleError: shapes that do not fit together or the metadata.

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
    if norms is not None:  # SAELens folds the scale first, so norms and threshold are those behind it
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
    """Check every shape against W_enc's, and this against the metadata; raises IncompatibleError."""
    d_in, d_sae = weights.W_enc.shape
    told = (metadata.d_in or d_in, metadata.d_sae or d_sae)
    wanted = {"W_enc": told, "W_dec": told[::-1], "b_enc": told[1:], "b_dec": told[:1]}
    wanted |= {"r_mag": told[1:], "b_mag": told[1:]}
    if weights.threshold is not None and weights.threshold.ndim:
        wanted["threshold"] = told[1:]
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
    """Read all tensors of a weight file; floating-point ones must be of a known type."""
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
    if not isinstance(value, dict) or not all(isinstance(one, Tensor) for one in value.values()):
        raise IncompatibleError(str(path), expected, type(value).__name__, "save its state_dict alone")
    return {str(name): tensor for name, tensor in value.items()}


def _saelens(metadata: SAEMetadata, t: Tensors) -> Weights:
    """SAELens: act((norm(x) - b_dec [if applied]) @ W_enc + b_enc), weighed by decoder norms if told."""
    settings = metadata.settings
    _check_unscaled(metadata, t)
    gated, topk = metadata.architecture == "gated", metadata.architecture == "topk"
    batch = settings.get("architecture") in {"batchtopk", "matryoshka_batchtopk"}
    factor = settings.get("norm_scaling_factor")
    scaled = factor is not None and metadata.normalization == "expected_average_only_in"
    threshold = _threshold(t) if metadata.architecture == "jumprelu" else None
    return Weights(
        t.matrix("W_enc"),
        t.vector("b_gate" if gated else "b_enc"),
        t.matrix("W_dec"),
        t.vector("b_dec"),
        subtract_b_dec=bool(settings.get("apply_b_dec_to_input", True)),
        threshold=threshold,
        k=int(settings["k"]) if topk else None,
        by_norm=(topk or batch) and bool(settings.get("rescale_acts_by_decoder_norm")),
        scale=float(factor) if scaled else 1.0,  # type: ignore[arg-type]
        r_mag=t.vector("r_mag") if gated else None,
        b_mag=t.vector("b_mag") if gated else None,
    )


def _threshold(t: Tensors) -> Tensor:
    """Return SAELens' threshold: of an SAE, or of a training, which keeps its logarithm or one for all."""
    if "log_threshold" in t:
        return t.thresholds("log_threshold").exp()
    return t.thresholds("topk_threshold" if "topk_threshold" in t else "threshold")


def _check_unscaled(metadata: SAEMetadata, t: Tensors) -> None:
    """Refuse latents that are scaled after training, which nobody publishes any more."""
    scaling = t.get("scaling_factor")
    if scaling is not None and not bool((scaling == 1).all()):
        where, hint = f"{metadata.name}: scaling_factor", "fold it into W_dec with SAELens 5"
        raise IncompatibleError(where, "ones", "other numbers", hint)


def _gemma_scope(metadata: SAEMetadata, t: Tensors) -> Weights:
    """Gemma Scope 1 and 2: relu(pre) where pre = x @ W_enc + b_enc > threshold; b_dec is not subtracted.

    The names are in upper case (1) or lower case (2), with or without a path before them.
    """
    named = Tensors(t.where, {plain_name(name): tensor for name, tensor in t.items()})
    if len(named) < len(t):
        hint = "keep one SAE in a file"
        raise IncompatibleError(t.where, "every tensor once", ", ".join(sorted(t)), hint)
    _check_unscaled(metadata, named)
    return Weights(
        named.matrix("w_enc"),
        named.vector("b_enc"),
        named.matrix("w_dec"),
        named.vector("b_dec"),
        threshold=named.thresholds("threshold"),
    )


def _linear(t: Tensors, encoder: str = "encoder", decoder: str = "decoder") -> Weights:
    """Take the four tensors of two `torch.nn.Linear`, whose matrices are the transposed ones."""
    return Weights(
        t.matrix(f"{encoder}.weight").T,
        t.vector(f"{encoder}.bias"),
        t.matrix(f"{decoder}.weight").T,
        t.vector(f"{decoder}.bias"),
    )


def _llama_scope(metadata: SAEMetadata, t: Tensors) -> Weights:
    """Llama Scope: x is scaled to norm sqrt(d_in) on average, and the one threshold with it."""
    weights = _linear(t)
    scale = _llama_scale(metadata, weights)
    threshold = torch.tensor(float(metadata.settings["jump_relu_threshold"]) * scale)
    return weights._replace(threshold=threshold, scale=scale)


def _llama_scope_r1(metadata: SAEMetadata, t: Tensors) -> Weights:
    """Llama Scope R1-Distill: the same with a log threshold for each latent, in the scaled space."""
    weights = _linear(t)
    threshold = t.thresholds("log_jumprelu_threshold").exp()
    return weights._replace(threshold=threshold, scale=_llama_scale(metadata, weights))


def _llama_scale(metadata: SAEMetadata, weights: Weights) -> float:
    """Return the factor of the release table, else sqrt(d_in) over the average norm, else 1."""
    settings = metadata.settings
    average = (settings.get("dataset_average_activation_norm") or {}).get("in")
    factor = settings.get("norm_scaling_factor") if metadata.format == "llama-scope-r1" else None
    if factor is not None or average is None:
        return float(factor or settings.get("norm_scaling_factor") or 1.0)
    return float(weights.W_enc.shape[0] ** 0.5 / average)


def _goodfire(_metadata: SAEMetadata, t: Tensors) -> Weights:
    """Goodfire: relu(encoder_linear(x)) and decoder_linear; qresearch's file has `encoder` and `decoder`."""
    ending = "_linear" if "encoder_linear.weight" in t else ""
    return _linear(t, f"encoder{ending}", f"decoder{ending}")


def _qwen_scope(metadata: SAEMetadata, t: Tensors) -> Weights:
    """Qwen Scope: the k largest of x @ W_enc.T + b_enc; the file holds both matrices transposed."""
    w_enc, w_dec = t.matrix("W_enc").T, t.matrix("W_dec").T
    return Weights(w_enc, t.vector("b_enc"), w_dec, t.vector("b_dec"), k=int(metadata.settings["k"]))


def _sparsify(metadata: SAEMetadata, t: Tensors) -> Weights:
    """sparsify: the k largest of relu((x - b_dec) @ encoder.weight.T + encoder.bias); W_dec lies as ours."""
    return Weights(
        t.matrix("encoder.weight").T,
        t.vector("encoder.bias"),
        t.matrix("W_dec"),
        t.vector("b_dec"),
        subtract_b_dec=True,
        k=int(metadata.settings["k"]),
    )


def _dictionary_learning(metadata: SAEMetadata, t: Tensors) -> Weights:
    """dictionary_learning's classes, each as its `encode` computes it."""
    kind = metadata.settings["dict_class"]
    if kind in {"JumpReluAutoEncoder", "MatryoshkaBatchTopKSAE"}:
        return Weights(
            t.matrix("W_enc"),
            t.vector("b_enc"),
            t.matrix("W_dec"),
            t.vector("b_dec"),
            subtract_b_dec=kind == "MatryoshkaBatchTopKSAE",
            threshold=t.thresholds("threshold"),
        )
    if kind == "AutoEncoderNew":
        return _linear(t)
    gated = kind == "GatedAutoEncoder"
    names = {"AutoEncoder": "bias", "GatedAutoEncoder": "decoder_bias"}
    return Weights(
        t.matrix("encoder.weight").T,
        t.vector("gate_bias" if gated else "encoder.bias"),
        t.matrix("decoder.weight").T,
        t.vector(names.get(kind, "b_dec")),
        subtract_b_dec=True,
        threshold=t.thresholds("threshold") if kind == "BatchTopKSAE" else None,
        k=_dictionary_k(metadata, t) if kind == "AutoEncoderTopK" else None,
        r_mag=t.vector("r_mag") if gated else None,
        b_mag=t.vector("mag_bias") if gated else None,
    )


def _dictionary_k(metadata: SAEMetadata, t: Tensors) -> int:
    """Return k: a tensor of newer files, the trainer's setting beside older ones."""
    if "k" in t or metadata.settings.get("k") is None:
        return t.whole_number("k")
    return int(metadata.settings["k"])
