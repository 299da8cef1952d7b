"""The description of a format of SAE files, and helpers of several readers; without torch and sae_lens.

Axes: d_in (width of the residual stream), d_sae (latents).
"""

import json
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sparserm_cli.errors import IncompatibleError
from sparserm_cli.models.checkpoints.safetensors_header import check_whole, read_header
from sparserm_cli.models.sae.metadata import LocalSAE, SAEMetadata, Settings

if TYPE_CHECKING:
    from torch import Tensor

SCALED_INPUT = "expected_average_only_in"
"""SAELens' name for the multiplication of the input by one number."""


@dataclass(frozen=True)
class SAEFormat:
    """One format of SAE files; a module that defines it and an entry in the table add it everywhere."""

    name: str
    """Name of the format in messages and in `LocalSAE.format`."""
    read_metadata: Callable[[LocalSAE], SAEMetadata]
    """Function that reads the metadata of the SAE, without its weights and without torch."""
    to_weights: Callable[[SAEMetadata, "Tensors"], "Weights"]
    """Function that turns the tensors of the weight file into a `Formula`."""
    files: tuple[str, ...] = ()
    """Files in the SAE's folder by which the format is recognised; the weights are the last."""
    file_pattern: str | None = None
    """Regular expression of the file's name, for a format that is recognised by the name of its one file."""
    sae_lens_loaders: tuple[str, ...] = ()
    """Name of the loader of such files in SAELens' table of releases (`conversion_func`)."""
    decoder_tensor: str | None = None
    """Name of the safetensors matrix whose rows are the directions; None if the format has none."""


class Weights(NamedTuple):
    """The tensors and options of an SAE's formula.

    Fields:
        W_enc: encoder matrix, (d_in, d_sae).
        b_enc: encoder bias, (d_sae,); of a gated SAE the bias of the gate.
        W_dec: decoder matrix, (d_sae, d_in).
        b_dec: decoder bias, (d_in,).
        subtract_b_dec: whether the encoder takes x - b_dec.
        threshold: thresholds of a jumprelu SAE.
        k: number of active latents of a topk SAE.
        by_norm: whether pre-activations are multiplied by the norm of their decoder row, and latents divided
            by it.
        scale: factor of the encoder's input; the output is divided by it.
        r_mag: logarithm of the magnitude scale of a gated SAE.
        b_mag: magnitude bias of a gated SAE.
    """

    W_enc: "Tensor"
    b_enc: "Tensor"
    W_dec: "Tensor"
    b_dec: "Tensor"
    subtract_b_dec: bool = False
    threshold: "Tensor | None" = None
    k: int | None = None
    by_norm: bool = False
    scale: float = 1.0
    r_mag: "Tensor | None" = None
    b_mag: "Tensor | None" = None


class Tensors(dict[str, Any]):
    """The tensors of a weight file; an error names one that is missing or of the wrong shape.

    Args:
        where: path of the file, for messages.
        tensors: the tensors of the file by name.

    """

    def __init__(self, where: str, tensors: Mapping[str, "Tensor"]) -> None:
        super().__init__(tensors)
        self.where = where

    def matrix(self, name: str) -> "Tensor":
        """Return a matrix; raises IncompatibleError."""
        return self._of(name, "a matrix", {2})

    def vector(self, name: str) -> "Tensor":
        """Return a vector; raises IncompatibleError."""
        return self._of(name, "a vector", {1})

    def thresholds(self, name: str) -> "Tensor":
        """Return one number, or one number per latent, in float32; raises IncompatibleError."""
        return self._of(name, "a number or a vector", {0, 1}).float()

    def whole_number(self, name: str) -> int:
        """Return a single whole number above 0; raises IncompatibleError."""
        value = self._of(name, "a number", {0}).item()
        if not value > 0 or value != int(value):
            raise self._broken(f"{name} as a whole number above 0", str(value))
        return int(value)

    def _of(self, name: str, kind: str, axes: set[int]) -> "Tensor":
        if name not in self:
            raise self._broken(f"a tensor {name}", ", ".join(sorted(self)) or "no tensor at all")
        tensor = self[name]
        if tensor.ndim not in axes or tensor.numel() == 0:
            raise self._broken(f"{name} as {kind}", f"shape {tuple(tensor.shape)}")
        if bool(tensor.isnan().any()):
            raise self._broken(f"{name} of numbers", "NaN in it")
        return tensor

    def _broken(self, expected: str, found: str) -> IncompatibleError:
        return IncompatibleError(self.where, expected, found, "download the SAE again, or check its format")


def read_settings(path: Path) -> dict[str, Any]:
    """Read a JSON configuration.

    Raises:
        IncompatibleError: the file is no JSON object.

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
    """Return the shapes of the arrays of a `.npz` file, from their headers alone.

    Raises:
        IncompatibleError: the file is no `.npz` file.

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
    """Return an object of a configuration, empty if absent; raises IncompatibleError for another value."""
    value = settings.get(key)
    if value is not None and not isinstance(value, dict):
        where = f"{files.name}: {key}"
        raise IncompatibleError(where, "a JSON object", repr(value), "download the SAE again")
    return value or {}


def text(files: LocalSAE, settings: Settings, key: str) -> str | None:
    """Return a name in a configuration, None if it is absent; raises IncompatibleError if it is no text."""
    value = settings.get(key)
    if value is not None and not isinstance(value, str):
        raise IncompatibleError(f"{files.name}: {key}", "a text", repr(value), "download the SAE again")
    return value or None


def hook_of(path: str) -> str | None:
    """Return the hook of a residual SAE whose path names its layer: `layer_12`, `layers.12` or `layer12`.

    The last such part of the path counts, since folders above the SAE's folder may have any name.
    """
    layer_numbers = re.findall(r"(?:^|[/_.-])layers?[._]?(\d+)", path)
    return f"blocks.{int(layer_numbers[-1])}.hook_resid_post" if layer_numbers else None


def plain_name(tensor: str) -> str:
    """Return a tensor's name in lower case and without a path before it: `params/W_enc` becomes `w_enc`."""
    return tensor.rsplit("/", 1)[-1].casefold()


_ENCODERS = ("w_enc", "encoder.weight")
"""Names of the encoder's matrix: (d_in, d_sae) under the first, (d_sae, d_in) under the second."""


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
    """Build the metadata; widths that no configuration gives are read from the header of the weight file."""
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
    merged = {**(settings or {}), **files.settings}
    return SAEMetadata(
        files.name,
        files.format,
        architecture,
        d_in,
        d_sae,
        hook_name,
        model_name,
        dtype,
        normalization,
        merged,
    )


def linear_weights(t: Tensors, encoder: str = "encoder", decoder: str = "decoder") -> Weights:
    """Take the four tensors of two `torch.nn.Linear` modules, whose matrices are transposed."""
    return Weights(
        t.matrix(f"{encoder}.weight").T,
        t.vector(f"{encoder}.bias"),
        t.matrix(f"{decoder}.weight").T,
        t.vector(f"{decoder}.bias"),
    )


def check_unscaled(metadata: SAEMetadata, t: Tensors) -> None:
    """Refuse latents that are scaled after training; no publisher uses this any more."""
    scaling = t.get("scaling_factor")
    if scaling is not None and not bool((scaling == 1).all()):
        where, hint = f"{metadata.name}: scaling_factor", "fold it into W_dec with SAELens 5"
        raise IncompatibleError(where, "ones", "other numbers", hint)
