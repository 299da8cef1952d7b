"""What an SAE of each format says about itself, read without its weights, torch or sae_lens.

Axes: d_in (width of the residual stream), d_sae (latents).
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparserm_cli.errors import IncompatibleError
from sparserm_cli.locations import bundled_sae
from sparserm_cli.models.sae_files import (
    LocalSAE,
    SAEMetadata,
    Settings,
    find_local,
    part,
    positive_number,
    read_settings,
    text,
    whole_number,
)
from sparserm_cli.models.sae_public import PUBLIC_FORMATS

__all__ = ["SAEMetadata", "find_sae", "read_metadata", "read_sae_metadata"]


def read_sae_metadata(name: str | Path, *, offline: bool = False) -> SAEMetadata:
    """Read what an SAE says about itself.

    Args:
        name: a local folder or file, or RELEASE/SAE_ID of SAELens, or ORG/REPO/FOLDER of the hub.
        offline: take a release from the hub's cache only.

    Raises:
        UsageError: no such path or release.
        IncompatibleError: the configuration is broken, or of an architecture that is no SAE of one place.
        TemporaryError: the hub does not answer and the cache has no copy.

    """
    return read_metadata(find_sae(name, offline=offline))


def find_sae(name: str | Path, *, offline: bool = False) -> LocalSAE:
    """Find an SAE's files on this machine, fetching those of a release; raises as `read_sae_metadata`."""
    path = Path(name).expanduser()
    if path.exists() or str(name).startswith(("/", "./", "../", "~")):
        return find_local(path, str(name))
    if folder := bundled_sae(str(name)):
        return find_local(folder, str(name))
    from sparserm_cli.models.sae_hub import fetch_release

    return fetch_release(str(name), offline=offline)


def read_metadata(files: LocalSAE) -> SAEMetadata:
    """Read what the configuration beside the weights says; raises as `read_sae_metadata`."""
    return {"saelens": _saelens, **PUBLIC_FORMATS}[files.format](files)


def _saelens(files: LocalSAE) -> SAEMetadata:
    """SAELens' own format; configurations of before version 6 are brought to the new names.

    A folder that a training left (`save_model`, a checkpoint) says the training's architecture and keeps its
    scale in `activation_scaler.json`; it is read as `save_inference_model` would have written it.
    """
    settings = {**read_settings(files.folder / "cfg.json"), **files.settings}
    metadata = part(files, settings, "metadata")
    version = str(settings.get("sae_lens_version") or metadata.get("sae_lens_version") or "0")
    if int((re.match(r"\d*", version) or [""])[0] or 0) < 6:
        settings = _modern(files, settings)
        metadata = settings["metadata"]
    told = settings.get("architecture", "standard")
    if not isinstance(told, str) or told not in ARCHITECTURES:
        expected = "architecture standard, topk, jumprelu or gated"
        raise IncompatibleError(files.name, expected, repr(told), "use another SAE")
    normalization = text(files, settings, "normalize_activations") or "none"
    scaler = files.folder / "activation_scaler.json"
    if normalization == SCALED_INPUT and scaler.is_file():
        settings.setdefault("norm_scaling_factor", read_settings(scaler).get("scaling_factor"))
    if settings.get("norm_scaling_factor") is not None:
        positive_number(files, settings, "norm_scaling_factor")
    if told == "topk":
        whole_number(files, settings, "k")
    return SAEMetadata(
        files.name,
        files.format,
        ARCHITECTURES[told],
        whole_number(files, settings, "d_in"),
        whole_number(files, settings, "d_sae"),
        text(files, metadata, "hook_name"),
        text(files, metadata, "model_name"),
        str(settings.get("dtype", "float32")).removeprefix("torch."),
        normalization,
        settings,
    )


SCALED_INPUT = "expected_average_only_in"
"""SAELens' word for an input that is multiplied by one number."""

ARCHITECTURES: Mapping[str, str] = {
    "standard": "standard",
    "topk": "topk",
    "jumprelu": "jumprelu",
    "gated": "gated",
    "batchtopk": "jumprelu",
    "matryoshka_batchtopk": "jumprelu",
}
"""What a configuration says -> what it computes when it encodes; the last two stand in training folders."""


def _modern(files: LocalSAE, old: Settings) -> dict[str, Any]:
    """Bring a configuration of SAELens before version 6 to the names and defaults of version 6."""
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
