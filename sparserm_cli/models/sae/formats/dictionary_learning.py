"""dictionary_learning: `ae.pt` beside the trainer's settings, with one class per architecture."""

from collections.abc import Mapping

from sparserm_cli.errors import IncompatibleError
from sparserm_cli.models.sae.formats.base import (
    SAEFormat,
    Tensors,
    Weights,
    described,
    linear_weights,
    part,
    read_settings,
    text,
    whole_number,
)
from sparserm_cli.models.sae.metadata import LocalSAE, SAEMetadata

DICTIONARIES: Mapping[str, str] = {
    "AutoEncoder": "standard",
    "AutoEncoderNew": "standard",
    "AutoEncoderTopK": "topk",
    "GatedAutoEncoder": "gated",
    "JumpReluAutoEncoder": "jumprelu",
    "BatchTopKSAE": "jumprelu",
    "MatryoshkaBatchTopKSAE": "jumprelu",
}
"""Mapping from a class of dictionary_learning to SAELens' name of the architecture by which it encodes."""


def read_metadata(files: LocalSAE) -> SAEMetadata:
    """Read `config.json`, which holds the trainer's settings."""
    trainer = part(files, read_settings(files.folder / "config.json"), "trainer")
    kind = trainer.get("dict_class")
    if not isinstance(kind, str) or kind not in DICTIONARIES:
        raise IncompatibleError(
            f"{files.name}: dict_class", "one of " + ", ".join(DICTIONARIES), repr(kind), "use another"
        )
    if trainer.get("k") is not None:
        whole_number(files, trainer, "k")
    place, layer = text(files, trainer, "submodule_name") or "", trainer.get("layer")
    hook = None if layer is None else f"blocks.{layer}.hook_resid_post"
    if place and ("resid" not in place or "pre" in place):
        hook = place
    return described(
        files,
        DICTIONARIES[kind],
        d_in=whole_number(files, trainer, "activation_dim"),
        d_sae=whole_number(files, trainer, "dict_size"),
        hook_name=hook,
        model_name=text(files, trainer, "lm_name"),
        settings=trainer,
    )


def to_weights(metadata: SAEMetadata, t: Tensors) -> Weights:
    """Return the formula that the `encode` method of each class computes."""
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
        return linear_weights(t)
    gated = kind == "GatedAutoEncoder"
    names = {"AutoEncoder": "bias", "GatedAutoEncoder": "decoder_bias"}
    return Weights(
        t.matrix("encoder.weight").T,
        t.vector("gate_bias" if gated else "encoder.bias"),
        t.matrix("decoder.weight").T,
        t.vector(names.get(kind, "b_dec")),
        subtract_b_dec=True,
        threshold=t.thresholds("threshold") if kind == "BatchTopKSAE" else None,
        k=_k(metadata, t) if kind == "AutoEncoderTopK" else None,
        r_mag=t.vector("r_mag") if gated else None,
        b_mag=t.vector("mag_bias") if gated else None,
    )


def _k(metadata: SAEMetadata, t: Tensors) -> int:
    """Return k: newer files hold it as a tensor, older ones in the trainer's settings."""
    if "k" in t or metadata.settings.get("k") is None:
        return t.whole_number("k")
    return int(metadata.settings["k"])


FORMAT = SAEFormat(
    "dictionary-learning",
    read_metadata,
    to_weights,
    files=("config.json", "ae.pt"),
    sae_lens_loaders=("dictionary_learning_1",),
)
