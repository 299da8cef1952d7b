"""Check by the metadata of both whether an SAE was made for a capture, before weights are read."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from sparserm_cli.errors import IncompatibleError
from sparserm_cli.models.sae.metadata import LocalSAE, SAEMetadata

DTYPES = ("float32", "bfloat16", "float16", "float64")
"""Types of weights that can be read; all computation is in float32."""

PICKLED = {".pt", ".pth", ".bin"}
"""Endings of files that hold tensors pickled by torch."""

ALIASES = ((r"^gpt2-small$", "gpt2"), (r"^(gemma-3-\d+m)-pt$", r"\1"))
"""Other names of the same models: TransformerLens' for GPT-2, Gemma Scope's for Gemma 3 base models."""


class Captured(NamedTuple):
    """The model and the layers whose activations were captured, with which an SAE is compared.

    Fields:
        model: name of the model.
        model_revision: revision of the model.
        layers: blocks, counted from 0, after which the residual stream was taken.
        d_in: width of the residual stream.
    """

    model: str
    model_revision: str
    layers: Sequence[int]
    d_in: int


def check_metadata(metadata: SAEMetadata, captured: Captured, *, allow_mismatch: bool = False) -> int:
    """Compare the metadata of an SAE with what was captured, before its weights are read.

    A field that the SAE does not record is not checked.

    Args:
        metadata: metadata of the SAE.
        captured: model and layers of the activations that it is to encode.
        allow_mismatch: accept another model, and another hook if one layer was captured; never another width.

    Returns:
        the layer to encode.

    Raises:
        IncompatibleError: width, dtype, model, hook or layer differ.

    """
    if metadata.d_in is not None and metadata.d_in != captured.d_in:
        hint = "use an SAE that was trained on this model"
        raise IncompatibleError(f"{metadata.name}: d_in", str(captured.d_in), str(metadata.d_in), hint)
    if metadata.dtype not in DTYPES:
        where = f"{metadata.name}: dtype"
        raise IncompatibleError(where, "one of " + ", ".join(DTYPES), metadata.dtype, "convert the weights")
    if not allow_mismatch:
        _check_model(metadata, captured)
    return _checked_layer(metadata, captured, allow_mismatch=allow_mismatch)


def _check_model(metadata: SAEMetadata, captured: Captured) -> None:
    """Compare the models by revision where the SAE records it, else by the last part of the name."""
    hint = "use an SAE of this model, or give --allow-mismatch"
    name, revision = metadata.model_name, metadata.model_revision
    if revision is not None and revision != captured.model_revision:
        where = f"{metadata.name}: model_revision"
        raise IncompatibleError(where, captured.model_revision, revision, hint)
    if revision is None and name is not None and _last_part(name) != _last_part(captured.model):
        raise IncompatibleError(f"{metadata.name}: model_name", captured.model, name, hint)


def _last_part(name: str) -> str:
    """Return the name of a model without its publisher, with other names of the same model replaced."""
    last = name.rstrip("/").split("/")[-1].split("@")[0].casefold()
    for pattern, same in ALIASES:
        last = re.sub(pattern, same, last)
    return last


def _checked_layer(metadata: SAEMetadata, captured: Captured, *, allow_mismatch: bool) -> int:
    """Return the layer that the hook names, or the only captured layer if it names none or may be wrong."""
    places = [f"blocks.{layer}.hook_resid_post" for layer in captured.layers]
    where, expected = f"{metadata.name}: hook_name", " or ".join(places)
    if metadata.layer is not None and metadata.layer in captured.layers:
        return metadata.layer
    if len(places) == 1 and (metadata.hook_name is None or allow_mismatch):
        return captured.layers[0]
    found = metadata.hook_name or "none"
    if metadata.layer is not None:
        hint = f"run `sparserm extract --layer {metadata.layer}`, or use another SAE"
    else:
        hint = "use an SAE of the residual stream after a block"
    raise IncompatibleError(where, expected, found, hint)


def check_normalization(metadata: SAEMetadata, *, allow_mismatch: bool = False) -> None:
    """Refuse an SAE whose input must be scaled by a number that is not recorded, or in an unknown way.

    Raises:
        IncompatibleError: it is such an SAE. With `allow_mismatch` the first kind is accepted without
            scaling, as SAELens accepts it.

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


def check_pickle(files: LocalSAE, *, allow_pickle: bool) -> None:
    """Refuse pickled weights without the flag; raises IncompatibleError."""
    if files.weights.suffix in PICKLED and not allow_pickle:
        hint = "convert it to safetensors, or give --allow-pickle if you trust its origin"
        raise IncompatibleError(str(files.weights), "safetensors weights", "pickled ones", hint)
