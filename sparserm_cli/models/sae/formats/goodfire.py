"""Goodfire and qresearch: ReLU SAEs of Llama models in one file, which is named after model and layer."""

import re

from sparserm_cli.models.sae.formats.base import SAEFormat, Tensors, Weights, described, linear_weights
from sparserm_cli.models.sae.metadata import LocalSAE, SAEMetadata


def read_metadata(files: LocalSAE) -> SAEMetadata:
    """Read model and layer from the file's name, `MODEL-SAE-lLAYER.pth` or `.pt`."""
    match = re.fullmatch(r"(.+)-SAE-l(\d+)\.pth?", files.weights.name)
    model, layer = (match[1], int(match[2])) if match else (None, None)
    return described(files, "standard", hook_name=f"blocks.{layer}.hook_resid_post", model_name=model)


def to_weights(_metadata: SAEMetadata, t: Tensors) -> Weights:
    """Take relu(encoder_linear(x)) and decoder_linear; qresearch calls them `encoder` and `decoder`."""
    ending = "_linear" if "encoder_linear.weight" in t else ""
    return linear_weights(t, f"encoder{ending}", f"decoder{ending}")


FORMAT = SAEFormat(
    "goodfire",
    read_metadata,
    to_weights,
    file_pattern=r".+-SAE-l\d+\.pth?",
    sae_lens_loaders=("goodfire", "deepseek_r1"),
)
