"""What SAEs of the public releases say about themselves, a function a format. No torch, no sae_lens.

Where a format has no configuration, what is needed stands in the names of its folders.
"""

import re
from collections.abc import Callable, Mapping

from sparserm_cli.errors import IncompatibleError
from sparserm_cli.models.sae_files import (
    LocalSAE,
    SAEMetadata,
    described,
    hook_of,
    read_settings,
    whole_number,
)


def _gemma_scope(files: LocalSAE) -> SAEMetadata:
    """Gemma Scope 1: no configuration; layer and model stand in the path, `layer_13/width_16k/...`."""
    path = files.folder.resolve().as_posix()
    model = re.search(r"gemma-scope-(2b|9b|27b)-(pt|it)-res", path)
    name = f"gemma-2-{model[1]}" + ("-it" if model[2] == "it" else "") if model else None
    return described(files, "jumprelu", hook_name=hook_of(path), model_name=name)


def _gemma_scope_2(files: LocalSAE) -> SAEMetadata:
    """Gemma Scope 2: `config.json` beside the weights, or only the path, `layer_12_width_16k_l0_small`."""
    path = files.folder.resolve().as_posix()
    config = files.folder / "config.json"
    settings = read_settings(config) if config.is_file() else {}
    if settings.get("architecture", "jump_relu") != "jump_relu" or settings.get("hf_hook_point_out"):
        found = f"{settings.get('architecture')} from {settings.get('hf_hook_point_in')}"
        raise IncompatibleError(files.name, "a jump_relu SAE of one place", found, "use a resid_post SAE")
    repo = re.search(r"gemma-scope-2-(270m|1b|4b|12b|27b)-(pt|it)", path)
    name = settings.get("model_name") or (f"gemma-3-{repo[1]}-{repo[2]}" if repo else None)
    point = settings.get("hf_hook_point_in")
    place = re.fullmatch(r"model\.layers\.(\d+)\.output", point or "")
    residual = f"blocks.{place[1]}.hook_resid_post" if place else point
    hook = residual if point else hook_of(path)
    return described(files, "jumprelu", hook_name=hook, model_name=name, settings=settings)


def _llama_scope(files: LocalSAE) -> SAEMetadata:
    """Llama Scope: `hyperparams.json`; thresholds and scale refer to activations of norm sqrt(d_in)."""
    settings = read_settings(files.folder / "hyperparams.json")
    hook = settings.get("hook_point_in")
    if settings.get("hook_point_out", hook) != hook:
        found = f"{hook} to {settings['hook_point_out']}"
        raise IncompatibleError(files.name, "an SAE of one place", found, "use a residual SAE (R)")
    norm = (settings.get("dataset_average_activation_norm") or {}).get("in")
    kept = "expected_average_only_in" if norm is None else "none"
    model = "meta-llama/Llama-3.1-8B"
    return described(
        files, "jumprelu", hook_name=hook, model_name=model, normalization=kept, settings=settings
    )


def _llama_scope_r1(files: LocalSAE) -> SAEMetadata:
    """Llama Scope R1-Distill: `config.json` with `hook_point_in`; the weights have a log threshold."""
    settings = read_settings(files.folder / "config.json")
    factor = files.settings.get("norm_scaling_factor")
    average = (settings.get("dataset_average_activation_norm") or {}).get("in")
    kept = "expected_average_only_in" if factor is None and average is None else "none"
    model = "meta-llama/Llama-3.1-8B"
    merged = {**settings, **files.settings}
    hook = settings.get("hook_point_in")
    return described(files, "jumprelu", hook_name=hook, model_name=model, normalization=kept, settings=merged)


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
    settings = read_settings(files.folder / "config.json")
    trainer = settings.get("trainer") or {}
    kind = trainer.get("dict_class")
    if not isinstance(kind, str) or kind not in DICTIONARIES:
        raise IncompatibleError(
            f"{files.name}: dict_class", "one of " + ", ".join(DICTIONARIES), repr(kind), "use another"
        )
    place = trainer.get("submodule_name") or ""
    layer = trainer.get("layer")
    hook = f"blocks.{layer}.hook_resid_post" if not place or "resid" in place else place
    model = (trainer.get("lm_name") or "") or None
    return described(
        files,
        DICTIONARIES[kind],
        d_in=trainer.get("activation_dim"),
        d_sae=trainer.get("dict_size"),
        hook_name=hook,
        model_name=model,
        settings=trainer,
    )


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
    model = read_settings(above).get("model") if above.is_file() else None
    d_in = whole_number(files, settings, "d_in")
    d_sae = settings.get("num_latents") or d_in * settings.get("expansion_factor", 0)
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
    "sparsify": _sparsify,
}
