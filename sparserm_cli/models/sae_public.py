"""What SAEs of the public releases say about themselves, a function a format. No torch, no sae_lens.

Where a format has no configuration, what is needed stands in the names of its folders.
"""

import re
from collections.abc import Callable, Mapping

from sparserm_cli.errors import IncompatibleError
from sparserm_cli.models.sae_files import (
    LocalSAE,
    SAEMetadata,
    Settings,
    described,
    hook_of,
    layer_of_hook,
    part,
    positive_number,
    read_settings,
    text,
    whole_number,
)


def _gemma_scope(files: LocalSAE) -> SAEMetadata:
    """Gemma Scope 1: no configuration; layer, place and model stand in the path, `layer_13/width_16k/...`."""
    path = files.folder.resolve().as_posix()
    repo = re.search(r"gemma-scope-(2b|9b|27b)-(pt|it)-(\w+)", path)
    name = f"gemma-2-{repo[1]}" + ("-it" if repo[2] == "it" else "") if repo else None
    hook = hook_of(path)
    if "embedding" in path.split("/"):
        hook = "hook_embed"
    elif repo and hook and repo[3] != "res":
        hook = hook.replace("hook_resid_post", f"hook_{repo[3]}")
    return described(files, "jumprelu", hook_name=hook, model_name=name)


def _gemma_scope_2(files: LocalSAE) -> SAEMetadata:
    """Gemma Scope 2: `config.json` beside the weights, or only the path, `layer_12_width_16k_l0_small`.

    A residual SAE states the place it writes to as well, which is the place it reads from.
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


def _llama_scope(files: LocalSAE) -> SAEMetadata:
    """Llama Scope: `hyperparams.json`; thresholds and scale refer to activations of norm sqrt(d_in)."""
    settings = read_settings(files.folder / "hyperparams.json")
    hook = text(files, settings, "hook_point_in")
    if settings.get("hook_point_out", hook) != hook:
        found = f"{hook} to {settings['hook_point_out']}"
        raise IncompatibleError(files.name, "an SAE of one place", found, "use a residual SAE (R)")
    positive_number(files, settings, "jump_relu_threshold")
    return _scaled(files, settings, hook)


def _llama_scope_r1(files: LocalSAE) -> SAEMetadata:
    """Llama Scope R1-Distill: `config.json` with `hook_point_in`; the weights have a log threshold."""
    settings = read_settings(files.folder / "config.json")
    return _scaled(files, settings, text(files, settings, "hook_point_in"))


def _scaled(files: LocalSAE, settings: Settings, hook: str | None) -> SAEMetadata:
    """Llama Scope's scale: the average norm of the activations, or the factor of the release table."""
    average, merged = part(files, settings, "dataset_average_activation_norm"), {**settings, **files.settings}
    if average.get("in") is not None:
        positive_number(files, average, "in")
    elif merged.get("norm_scaling_factor") is not None:
        positive_number(files, merged, "norm_scaling_factor")
    known = average.get("in") is not None or merged.get("norm_scaling_factor") is not None
    return described(
        files,
        "jumprelu",
        hook_name=hook,
        model_name="meta-llama/Llama-3.1-8B",
        normalization="none" if known else "expected_average_only_in",
        settings=merged,
    )


DICTIONARIES: Mapping[str, str] = {
    "AutoEncoder": "standard",
    "AutoEncoderNew": "standard",
    "AutoEncoderTopK": "topk",
    "GatedAutoEncoder": "gated",
    "JumpReluAutoEncoder": "jumprelu",
    "BatchTopKSAE": "jumprelu",
    "MatryoshkaBatchTopKSAE": "jumprelu",
}
"""Class of dictionary_learning -> SAELens' word for what it computes when it encodes."""


def _dictionary_learning(files: LocalSAE) -> SAEMetadata:
    """dictionary_learning: `config.json` with the trainer's settings."""
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


def _goodfire(files: LocalSAE) -> SAEMetadata:
    """Goodfire and qresearch: one file, whose name is `MODEL-SAE-lLAYER.pth` or `.pt`."""
    match = re.fullmatch(r"(.+)-SAE-l(\d+)\.pth?", files.weights.name)
    model, layer = (match[1], int(match[2])) if match else (None, None)
    return described(files, "standard", hook_name=f"blocks.{layer}.hook_resid_post", model_name=model)


def _qwen_scope(files: LocalSAE) -> SAEMetadata:
    """Qwen Scope: layer, width and k stand in the path, `SAE-Res-MODEL-W32K-L0_50/layer5.sae.pt`."""
    path = files.weights.absolute().as_posix()
    repo = re.search(r"SAE-Res-([\w.-]+?)-W(\d+)K-L0_(\d+)", path)
    if repo is None:
        expected = "a folder named like SAE-Res-MODEL-W32K-L0_50, which gives k"
        raise IncompatibleError(
            files.name, expected, files.folder.name, "keep the repository's name as the folder's"
        )
    hook = f"blocks.{int(files.weights.name.split('.')[0].removeprefix('layer'))}.hook_resid_post"
    settings = {"k": int(repo[3])}
    return described(
        files, "topk", d_sae=int(repo[2]) * 1024, hook_name=hook, model_name=repo[1], settings=settings
    )


def _sparsify(files: LocalSAE) -> SAEMetadata:
    """EleutherAI sparsify: `layers.N/cfg.json`; the model stands in `config.json` of the folder above."""
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


PUBLIC_FORMATS: Mapping[str, Callable[[LocalSAE], SAEMetadata]] = {
    "gemma-scope": _gemma_scope,
    "gemma-scope-2": _gemma_scope_2,
    "llama-scope": _llama_scope,
    "llama-scope-r1": _llama_scope_r1,
    "dictionary-learning": _dictionary_learning,
    "qwen-scope": _qwen_scope,
    "goodfire": _goodfire,
    "sparsify": _sparsify,
}
