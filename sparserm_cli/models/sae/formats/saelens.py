"""SAELens' own format, in every version, and the folders that its trainings write."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sparserm_cli.errors import IncompatibleError
from sparserm_cli.models.sae.formats.base import (
    SCALED_INPUT,
    SAEFormat,
    Tensors,
    Weights,
    check_unscaled,
    part,
    positive_number,
    read_settings,
    text,
    whole_number,
)
from sparserm_cli.models.sae.metadata import LocalSAE, SAEMetadata, Settings

if TYPE_CHECKING:
    from torch import Tensor


ARCHITECTURES: Mapping[str, str] = {
    "standard": "standard",
    "topk": "topk",
    "jumprelu": "jumprelu",
    "gated": "gated",
    "batchtopk": "jumprelu",
    "matryoshka_batchtopk": "jumprelu",
}
"""Mapping from the configured architecture to the one that encodes; the last two are of trainings."""


def read_metadata(files: LocalSAE) -> SAEMetadata:
    """Read `cfg.json`; configurations older than version 6 are converted to the new names.

    A folder of a training (`save_model`, a checkpoint) names the architecture of the training and keeps its
    scale in `activation_scaler.json`. It is read as if `save_inference_model` had written it.
    """
    settings = {**read_settings(files.folder / "cfg.json"), **files.settings}
    metadata = part(files, settings, "metadata")
    version = str(settings.get("sae_lens_version") or metadata.get("sae_lens_version") or "0")
    if int((re.match(r"\d*", version) or [""])[0] or 0) < 6:
        settings = _modern(files, settings)
        metadata = settings["metadata"]
    kind = settings.get("architecture", "standard")
    if not isinstance(kind, str) or kind not in ARCHITECTURES:
        expected = "architecture standard, topk, jumprelu or gated"
        raise IncompatibleError(files.name, expected, repr(kind), "use another SAE")
    normalization = text(files, settings, "normalize_activations") or "none"
    scaler = files.folder / "activation_scaler.json"
    if normalization == SCALED_INPUT and scaler.is_file():
        settings.setdefault("norm_scaling_factor", read_settings(scaler).get("scaling_factor"))
    if settings.get("norm_scaling_factor") is not None:
        positive_number(files, settings, "norm_scaling_factor")
    if kind == "topk":
        whole_number(files, settings, "k")
    return SAEMetadata(
        files.name,
        files.format,
        ARCHITECTURES[kind],
        whole_number(files, settings, "d_in"),
        whole_number(files, settings, "d_sae"),
        text(files, metadata, "hook_name"),
        text(files, metadata, "model_name"),
        str(settings.get("dtype", "float32")).removeprefix("torch."),
        normalization,
        settings,
    )


def _modern(files: LocalSAE, old: Settings) -> dict[str, Any]:
    """Convert a configuration of an older SAELens to the names and defaults of version 6."""
    names = ("hook_name", "model_name", "model_from_pretrained_kwargs")
    new = {**old, "metadata": {name: old.get(name) for name in names}}
    new["metadata"]["hook_name"] = old.get("hook_name", old.get("hook_point"))
    if old.get("activation_fn", old.get("activation_fn_str")) == "topk":
        new["architecture"] = "topk"
        new["k"] = part(files, old, "activation_fn_kwargs").get("k")
    if isinstance(old.get("normalize_activations"), bool):
        new["normalize_activations"] = SCALED_INPUT if old["normalize_activations"] else "none"
    new.setdefault("apply_b_dec_to_input", True)
    return new


def to_weights(metadata: SAEMetadata, t: Tensors) -> Weights:
    """Take act((norm(x) - b_dec [if applied]) @ W_enc + b_enc), weighted by decoder norms if configured."""
    settings = metadata.settings
    check_unscaled(metadata, t)
    gated, topk = metadata.architecture == "gated", metadata.architecture == "topk"
    batch = settings.get("architecture") in {"batchtopk", "matryoshka_batchtopk"}
    factor = settings.get("norm_scaling_factor")
    scaled = factor is not None and metadata.normalization == SCALED_INPUT
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


def _threshold(t: Tensors) -> "Tensor":
    """Return the thresholds; a training stores their logarithms, or one number for all latents."""
    if "log_threshold" in t:
        return t.thresholds("log_threshold").exp()
    return t.thresholds("topk_threshold" if "topk_threshold" in t else "threshold")


FORMAT = SAEFormat(
    "saelens",
    read_metadata,
    to_weights,
    files=("cfg.json", "sae_weights.safetensors"),
    sae_lens_loaders=("sae_lens",),
    decoder_tensor="W_dec",
)
