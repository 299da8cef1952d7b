"""EleutherAI's sparsify: TopK SAEs, one folder per layer."""

import re

from sparserm_cli.errors import IncompatibleError
from sparserm_cli.models.sae.formats.base import (
    SAEFormat,
    Tensors,
    Weights,
    described,
    hook_of,
    read_settings,
    text,
    whole_number,
)
from sparserm_cli.models.sae.metadata import LocalSAE, SAEMetadata


def read_metadata(files: LocalSAE) -> SAEMetadata:
    """Read `layers.N/cfg.json`; `config.json` in the folder above names the model."""
    settings = read_settings(files.folder / "cfg.json")
    whole_number(files, settings, "k")
    for flag in ("transcode", "skip_connection", "signed"):
        if settings.get(flag):
            raise IncompatibleError(
                f"{files.name}: {flag}", "false", "true", "use an SAE of the residual stream"
            )
    if settings.get("activation", "topk") != "topk":
        raise IncompatibleError(
            f"{files.name}: activation", "topk", repr(settings["activation"]), "use another SAE"
        )
    above = files.folder.parent / "config.json"
    model = text(files, read_settings(above), "model") if above.is_file() else None
    d_in = whole_number(files, settings, "d_in")
    if settings.get("num_latents"):
        d_sae = whole_number(files, settings, "num_latents")
    else:
        d_sae = d_in * whole_number(files, settings, "expansion_factor")
    plain = re.fullmatch(r"layers?[._]\d+", files.folder.resolve().name)
    hook = hook_of(files.folder.resolve().as_posix()) if plain else files.folder.resolve().name
    return described(
        files, "topk", d_in=d_in, d_sae=d_sae, hook_name=hook, model_name=model, settings=settings
    )


def to_weights(metadata: SAEMetadata, t: Tensors) -> Weights:
    """Take the k largest of relu((x - b_dec) @ encoder.weight.T + encoder.bias); W_dec is (d_sae, d_in)."""
    return Weights(
        t.matrix("encoder.weight").T,
        t.vector("encoder.bias"),
        t.matrix("W_dec"),
        t.vector("b_dec"),
        subtract_b_dec=True,
        k=int(metadata.settings["k"]),
    )


FORMAT = SAEFormat(
    "sparsify",
    read_metadata,
    to_weights,
    files=("cfg.json", "sae.safetensors"),
    sae_lens_loaders=("sparsify",),
    decoder_tensor="W_dec",
)
