"""An SAE's files and what is said about it, as the readers of all formats share it. No torch, no sae_lens."""

import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import xxhash

from sparserm_cli.errors import IncompatibleError, UsageError
from sparserm_cli.models.safetensors_file import read_header

Settings = Mapping[str, Any]


class SAEMetadata(NamedTuple):
    """What is known about an SAE before its weights are read.

    Fields:
        name: the path or release name that the user gave.
        format: format on disk, such as `saelens` or `gemma-scope`.
        architecture: SAELens' name of it: standard, topk, jumprelu or gated.
        d_in: width of its input; None if only the weights say.
        d_sae: number of latents; None if only the weights say.
        hook_name: place in the model, in TransformerLens' words; None if not recorded.
        model_name: model it was trained on; None if not recorded.
        dtype: type of its weights, such as `float32`.
        normalization: what is done to its input, in SAELens' words; `none` if nothing.
        settings: what else the format's configuration says, as its reader needs it.
    """

    name: str
    format: str
    architecture: str
    d_in: int | None
    d_sae: int | None
    hook_name: str | None
    model_name: str | None
    dtype: str
    normalization: str
    settings: Settings

    @property
    def layer(self) -> int | None:
        """Block after which the residual stream is encoded, counted from 0; None for any other place.

        What enters block 8 (`blocks.8.hook_resid_pre`) is what leaves block 7.
        """
        match = re.fullmatch(r"blocks\.(\d+)\.hook_resid_(pre|post)", self.hook_name or "")
        layer = int(match[1]) - (match[2] == "pre") if match else -1
        return layer if layer >= 0 else None

    @property
    def model_revision(self) -> str | None:
        """Revision of the model it was trained on, if recorded."""
        own = self.settings.get("metadata", {}).get("sparserm", {})
        return own.get("model_revision") if isinstance(own, dict) else None

    def identity(self) -> dict[str, Any]:
        """Return the fields that features depend on, for the record of an artifact; the path is not one."""
        kept = ("architecture", "d_in", "d_sae", "hook_name", "model_name", "dtype", "normalization")
        return {key: getattr(self, key) for key in kept}


class LocalSAE(NamedTuple):
    """An SAE's files on this machine.

    Fields:
        name: what the user called it.
        format: one of the keys of `FORMATS`.
        folder: where the configuration lies.
        weights: the weight file.
        settings: overrides that a release table gives, such as `norm_scaling_factor`.
    """

    name: str
    format: str
    folder: Path
    weights: Path
    settings: Settings = MappingProxyType({})


FORMATS: Mapping[str, tuple[str, ...]] = {
    "saelens": ("cfg.json", "sae_weights.safetensors"),
    "sparsify": ("cfg.json", "sae.safetensors"),
    "gemma-scope": ("params.npz",),
    "gemma-scope-2": ("params.safetensors",),
    "llama-scope": ("hyperparams.json", "checkpoints/final.safetensors"),
    "llama-scope-r1": ("config.json", "sae_weights.safetensors"),
    "dictionary-learning": ("config.json", "ae.pt"),
    "qwen-scope": (),
}
"""Format -> the files that tell it, the weights last. Qwen Scope is a file `layerN.sae.pt`."""


def find_local(path: Path, name: str | None = None) -> LocalSAE:
    """Recognise the format of a folder, or of one of its files.

    Raises:
        UsageError: no such path, or no format has these files.

    """
    shown = name or str(path)
    if re.fullmatch(r"layer\d+\.sae\.pt", path.name) and path.is_file():
        return LocalSAE(shown, "qwen-scope", path.parent, path)
    folder = path.parent if path.is_file() else path
    for kind, files in FORMATS.items():
        if files and all((folder / file).is_file() for file in files):
            return LocalSAE(shown, kind, folder, folder / files[-1])
    expected = "a folder in the format of " + ", ".join(FORMATS)
    found = "a folder without those files" if path.is_dir() else "no such folder"
    raise UsageError(f"--sae {shown}", expected, found, "give an SAE's folder, or RELEASE/SAE_ID of SAELens")


def sae_digest(files: LocalSAE, metadata: SAEMetadata) -> str:
    """Return `xxh3:` and the 128-bit digest of all that latents depend on: configuration and weight file."""
    settings = {key: value for key, value in metadata.settings.items() if key not in {"metadata", "l0"}}
    told = [metadata.architecture, metadata.normalization, settings]
    hasher = xxhash.xxh3_128(json.dumps(told, sort_keys=True, default=dict).encode())
    with files.weights.open("rb") as file:
        while block := file.read(1 << 22):
            hasher.update(block)
    return f"xxh3:{hasher.hexdigest()}"


def read_settings(path: Path) -> dict[str, Any]:
    """Read a JSON configuration.

    Raises:
        IncompatibleError: it is no JSON object.

    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise IncompatibleError(
            str(path), "a JSON object", type(error).__name__, "download the SAE again"
        ) from None
    if not isinstance(value, dict):
        raise IncompatibleError(str(path), "a JSON object", type(value).__name__, "download the SAE again")
    return value


def npz_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a `.npz` file's arrays, from their headers alone.

    Raises:
        IncompatibleError: it is no such file.

    """
    shapes = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                with archive.open(name) as member:
                    version = np.lib.format.read_magic(member)
                    headers = {
                        (1, 0): np.lib.format.read_array_header_1_0,
                        (2, 0): np.lib.format.read_array_header_2_0,
                    }
                    shapes[name.removesuffix(".npy")] = headers[version](member)[0]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise IncompatibleError(
            str(path), "a file of arrays", type(error).__name__, "download it again"
        ) from None
    return shapes


def whole_number(files: LocalSAE, settings: Settings, key: str) -> int:
    """Return a width that a configuration must give; raises IncompatibleError if it does not."""
    value = settings.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        where = f"{files.name}: {key}"
        raise IncompatibleError(where, "a whole number above 0", repr(value), "download the SAE again")
    return value


def hook_of(text: str) -> str | None:
    """Return the hook of a residual SAE whose path names its layer: `layer_12`, `layers.12` or `layer12`."""
    match = re.search(r"(?:^|[/_.-])layers?[._]?(\d+)", text)
    return f"blocks.{int(match[1])}.hook_resid_post" if match else None


def described(
    files: LocalSAE,
    architecture: str,
    *,
    d_in: int | None = None,
    d_sae: int | None = None,
    hook_name: str | None = None,
    model_name: str | None = None,
    normalization: str = "none",
    settings: Settings | None = None,
) -> SAEMetadata:
    """Build metadata; widths that no configuration gives come from the safetensors header."""
    dtype = "float32"
    if files.weights.suffix == ".npz" and "w_enc" in (shapes := npz_shapes(files.weights)):
        d_in, d_sae = shapes["w_enc"]
    if files.weights.suffix == ".safetensors":
        header = read_header(files.weights)
        for name in ("w_enc", "encoder.weight"):
            if name in header and len(header[name].shape) == 2:
                dtype = header[name].dtype
                d_in, d_sae = header[name].shape if name == "w_enc" else header[name].shape[::-1]
    told = {**(settings or {}), **files.settings}
    return SAEMetadata(
        files.name, files.format, architecture, d_in, d_sae, hook_name, model_name, dtype, normalization, told
    )
