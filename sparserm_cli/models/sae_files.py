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
from sparserm_cli.models.safetensors_file import check_whole, read_header

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
        return layer_of_hook(self.hook_name)

    @property
    def caution(self) -> str | None:
        """What makes the SAE a worse fit to a plain forward pass of its model than it was in training."""
        told = [self.settings, self.settings.get("metadata")]
        given = [one.get("model_from_pretrained_kwargs") for one in told if isinstance(one, Mapping)]
        if any(isinstance(one, Mapping) and one.get("center_writing_weights") for one in given):
            return (
                f"{self.name} was trained on a residual stream whose mean over its dimensions was taken off"
                " (center_writing_weights); the plain stream is encoded here, so latents may differ"
            )
        return None

    @property
    def own_record(self) -> Settings:
        """What `train-sae` recorded of it, if it was trained here; else nothing."""
        metadata = self.settings.get("metadata")
        own = metadata.get("sparserm") if isinstance(metadata, Mapping) else None
        return own if isinstance(own, Mapping) else {}

    @property
    def model_revision(self) -> str | None:
        """Revision of the model it was trained on, if recorded."""
        revision = self.own_record.get("model_revision")
        return revision if isinstance(revision, str) else None

    def identity(self) -> dict[str, Any]:
        """Return the fields that features depend on, for the record of an artifact; the path is not one."""
        kept = ("architecture", "d_in", "d_sae", "hook_name", "model_name", "dtype", "normalization")
        return {key: getattr(self, key) for key in kept}


_PARTS = "model|language_model|transformer|gpt_neox|decoder|backbone|text_model|base_model"
"""Modules that the blocks of a causal language model stand in, in transformers' words."""


def layer_of_hook(hook: str | None) -> int | None:
    """Return the block after which a hook takes the residual stream, counted from 0; None for another place.

    What enters block 8 (`blocks.8.hook_resid_pre`, `model.layers.8.input`) is what leaves block 7. Known are
    TransformerLens' names and transformers' names of a block: `model.layers.2`, `h.2`, `gpt_neox.layers.2`,
    with `.output` or `.input` behind them or nothing.
    """
    theirs = re.fullmatch(r"blocks\.(\d+)\.hook_resid_(pre|post)", hook or "")
    plain = re.fullmatch(rf"(?:(?:{_PARTS})\.)*(?:layers|h)\.(\d+)(?:\.(input|output))?", hook or "")
    match = theirs or plain
    layer = int(match[1]) - (match[2] in {"pre", "input"}) if match else -1
    return layer if layer >= 0 else None


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
    "goodfire": (),
}
"""Format -> the files that tell it, the weights last; two are told by the name of their one file."""

SINGLE_FILES: Mapping[str, str] = {
    "qwen-scope": r"layer\d+\.sae\.pt",
    "goodfire": r".+-SAE-l\d+\.pth?",
}
"""Format -> the name of its one file: `layer5.sae.pt`, `Llama-3.1-8B-Instruct-SAE-l19.pth`."""


def find_local(path: Path, name: str | None = None) -> LocalSAE:
    """Recognise the format of a folder, or of one of its files.

    Raises:
        UsageError: no such path, or no format has these files.

    """
    shown = name or str(path)
    folder = path.parent if path.is_file() else path
    present = [path] if path.is_file() else sorted(path.iterdir()) if path.is_dir() else []
    for kind, pattern in SINGLE_FILES.items():
        matching = [file for file in present if re.fullmatch(pattern, file.name) and file.is_file()]
        if len(matching) == 1:
            return LocalSAE(shown, kind, folder, matching[0])
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
    check_whole(path)
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
    check_whole(path)
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
    """Return a width or k that a configuration must give; raises IncompatibleError if it does not."""
    return int(positive_number(files, settings, key, whole=True))


def positive_number(files: LocalSAE, settings: Settings, key: str, *, whole: bool = False) -> float:
    """Return a number that a configuration must give; raises IncompatibleError if it does not."""
    value = settings.get(key)
    number = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")
    if not number or (whole and value != int(value)):  # type: ignore[arg-type]
        expected = f"a {'whole ' if whole else ''}number above 0"
        raise IncompatibleError(f"{files.name}: {key}", expected, repr(value), "download the SAE again")
    return value  # type: ignore[return-value]


def part(files: LocalSAE, settings: Settings, key: str) -> dict[str, Any]:
    """Return an object of a configuration, empty if absent; raises IncompatibleError if it is none."""
    value = settings.get(key)
    if value is not None and not isinstance(value, dict):
        where = f"{files.name}: {key}"
        raise IncompatibleError(where, "a JSON object", repr(value), "download the SAE again")
    return value or {}


def text(files: LocalSAE, settings: Settings, key: str) -> str | None:
    """Return a name in a configuration, None if absent; raises IncompatibleError if it is no text."""
    value = settings.get(key)
    if value is not None and not isinstance(value, str):
        raise IncompatibleError(f"{files.name}: {key}", "a text", repr(value), "download the SAE again")
    return value or None


def hook_of(path: str) -> str | None:
    """Return the hook of a residual SAE whose path names its layer: `layer_12`, `layers.12` or `layer12`.

    The last such part of the path counts: folders above the SAE's may be named after anything.
    """
    found = re.findall(r"(?:^|[/_.-])layers?[._]?(\d+)", path)
    return f"blocks.{int(found[-1])}.hook_resid_post" if found else None


def plain_name(tensor: str) -> str:
    """Return a tensor's name in lower case and without a path before it: `params/W_enc` is `w_enc`."""
    return tensor.rsplit("/", 1)[-1].casefold()


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
    """Build metadata; widths that no configuration gives come from the weight file's header."""
    dtype = "float32"
    shapes = {}
    if files.weights.suffix == ".npz":
        shapes = {plain_name(name): shape for name, shape in npz_shapes(files.weights).items()}
    if files.weights.suffix == ".safetensors":
        header = read_header(files.weights)
        shapes = {plain_name(name): fact.shape for name, fact in header.items()}
        kinds = {plain_name(name): fact.dtype for name, fact in header.items()}
        dtype = next((kinds[name] for name in _ENCODERS if name in kinds), dtype)
    for name in _ENCODERS:
        if len(shape := shapes.get(name, ())) == 2:
            d_in, d_sae = shape if name == "w_enc" else shape[::-1]
    told = {**(settings or {}), **files.settings}
    return SAEMetadata(
        files.name, files.format, architecture, d_in, d_sae, hook_name, model_name, dtype, normalization, told
    )


_ENCODERS = ("w_enc", "encoder.weight")
"""Names of the encoder's matrix: (d_in, d_sae) under the first, (d_sae, d_in) under the second."""
