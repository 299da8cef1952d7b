"""Gemma Scope 1 and 2: JumpReLU SAEs of the residual stream of Gemma 2 and 3."""

import re

from sparserm_cli.errors import IncompatibleError
from sparserm_cli.models.sae.formats.base import (
    SAEFormat,
    Tensors,
    Weights,
    check_unscaled,
    described,
    hook_of,
    plain_name,
    read_settings,
    text,
)
from sparserm_cli.models.sae.metadata import LocalSAE, SAEMetadata, layer_of_hook


def read_first(files: LocalSAE) -> SAEMetadata:
    """Read Gemma Scope 1, whose path gives layer, point and model: `layer_13/width_16k/...`."""
    path = files.folder.resolve().as_posix()
    repo = re.search(r"gemma-scope-(2b|9b|27b)-(pt|it)-(\w+)", path)
    name = f"gemma-2-{repo[1]}" + ("-it" if repo[2] == "it" else "") if repo else None
    hook = hook_of(path)
    if "embedding" in path.split("/"):
        hook = "hook_embed"
    elif repo and hook and repo[3] != "res":
        hook = hook.replace("hook_resid_post", f"hook_{repo[3]}")
    return described(files, "jumprelu", hook_name=hook, model_name=name)


def read_second(files: LocalSAE) -> SAEMetadata:
    """Read Gemma Scope 2 from its `config.json`, or from the path alone: `layer_12_width_16k_l0_small`.

    A residual SAE also states the point that it writes to, which is the point that it reads from.
    """
    path = files.folder.resolve().as_posix()
    config = files.folder / "config.json"
    settings = read_settings(config) if config.is_file() else {}
    point, out = text(files, settings, "hf_hook_point_in"), text(files, settings, "hf_hook_point_out")
    kind = settings.get("architecture", "jump_relu")
    if kind != "jump_relu" or out not in {None, point} or settings.get("affine_connection"):
        found = f"{kind} from {point} to {out or point}"
        raise IncompatibleError(files.name, "a jump_relu SAE of one place", found, "use a resid_post SAE")
    repo = re.search(r"gemma-scope-2-(270m|1b|4b|12b|27b)-(pt|it)", path)
    name = text(files, settings, "model_name") or (f"gemma-3-{repo[1]}-{repo[2]}" if repo else None)
    layer = layer_of_hook(point)
    hook = point if layer is None else f"blocks.{layer}.hook_resid_post"
    if point is None:
        other = re.search(r"attn_out|mlp_out|transcoder|clt", path)
        hook = f"{files.folder.name} ({other[0]})" if other else hook_of(path)
    return described(files, "jumprelu", hook_name=hook, model_name=name, settings=settings)


def to_weights(metadata: SAEMetadata, t: Tensors) -> Weights:
    """Take relu(pre) where pre = x @ W_enc + b_enc > threshold; b_dec is not subtracted.

    The names are in upper case (version 1) or lower case (version 2), with or without a path before them.
    """
    named = Tensors(t.where, {plain_name(name): tensor for name, tensor in t.items()})
    if len(named) < len(t):
        hint = "keep one SAE in a file"
        raise IncompatibleError(t.where, "every tensor once", ", ".join(sorted(t)), hint)
    check_unscaled(metadata, named)
    return Weights(
        named.matrix("w_enc"),
        named.vector("b_enc"),
        named.matrix("w_dec"),
        named.vector("b_dec"),
        threshold=named.thresholds("threshold"),
    )


FIRST = SAEFormat("gemma-scope", read_first, to_weights, files=("params.npz",), sae_lens_loaders=("gemma_2",))
SECOND = SAEFormat(
    "gemma-scope-2",
    read_second,
    to_weights,
    files=("params.safetensors",),
    sae_lens_loaders=("gemma_3",),
    decoder_tensor="w_dec",
)
