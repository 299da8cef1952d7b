"""What an SAE of each format says about itself, read without its weights, torch or sae_lens.

Axes: d_in (width of the residual stream), d_sae (latents).
"""

import re
from pathlib import Path
from typing import Any

from sparserm_cli.errors import IncompatibleError
from sparserm_cli.locations import bundled_sae
from sparserm_cli.models.sae_files import (
    LocalSAE,
    SAEMetadata,
    Settings,
    find_local,
    read_settings,
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
    """SAELens' own format; configurations of before version 6 are brought to the new names."""
    settings = {**read_settings(files.folder / "cfg.json"), **files.settings}
    metadata = settings.get("metadata") or {}
    version = str(settings.get("sae_lens_version") or metadata.get("sae_lens_version") or "0")
    if int(re.match(r"\d*", version)[0] or 0) < 6:  # type: ignore[index]
        settings = _modern(settings)
        metadata = settings["metadata"]
    architecture = settings.get("architecture", "standard")
    if architecture not in {"standard", "topk", "jumprelu", "gated"}:
        expected = "architecture standard, topk, jumprelu or gated"
        raise IncompatibleError(files.name, expected, repr(architecture), "use another SAE")
    return SAEMetadata(
        files.name,
        files.format,
        architecture,
        whole_number(files, settings, "d_in"),
        whole_number(files, settings, "d_sae"),
        metadata.get("hook_name"),
        metadata.get("model_name"),
        str(settings.get("dtype", "float32")).removeprefix("torch."),
        settings.get("normalize_activations") or "none",
        settings,
    )


def _modern(old: Settings) -> dict[str, Any]:
    """Bring a configuration of SAELens before version 6 to the names and defaults of version 6."""
    new = {**old, "metadata": {}}
    new["metadata"]["hook_name"] = old.get("hook_name", old.get("hook_point"))
    new["metadata"]["model_name"] = old.get("model_name")
    if old.get("activation_fn", old.get("activation_fn_str")) == "topk":
        new["architecture"] = "topk"
        new["k"] = old.get("activation_fn_kwargs", {}).get("k")
    if isinstance(old.get("normalize_activations"), bool):
        new["normalize_activations"] = "expected_average_only_in" if old["normalize_activations"] else "none"
    new.setdefault("apply_b_dec_to_input", True)
    return new
