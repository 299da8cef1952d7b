"""Folders that hold an adapter in PEFT's form, and the base model that they name."""

import importlib.util
import json
from pathlib import Path

from sparserm_cli.errors import CorruptStoreError, IncompatibleError, ResourceError
from sparserm_cli.models.checkpoints.safetensors_header import check_whole, read_header

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_WHOLE = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
"""Files of a whole model; beside an adapter, any of them makes the folder ambiguous."""


def is_adapter(folder: Path) -> bool:
    """Return whether a folder holds an adapter."""
    return (folder / CONFIG).is_file()


def base_of(name: str, folder: Path) -> str:
    """Return the name of the model that an adapter was trained on.

    Args:
        name: name that the user gave for the adapter.
        folder: folder of its files.

    Raises:
        CorruptStoreError: its configuration or weights cannot be read.
        IncompatibleError: a whole model lies beside it, it has no safetensors, or it names no base.
        ResourceError: PEFT, which applies it, is not installed.

    """
    whole = next((file for file in _WHOLE if (folder / file).exists()), None)
    if whole:
        found = f"both, {CONFIG} beside {whole}"
        hint = f"move {CONFIG} and {WEIGHTS} away if they are merged, else into a folder of their own"
        raise IncompatibleError(name, "a whole model or an adapter", found, hint)
    path = folder / CONFIG
    check_whole(path)
    try:
        base = json.loads(path.read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        found, hint = type(error).__name__, "save the adapter again"
        raise CorruptStoreError(str(path), "the name of its base model", found, hint) from None
    if not isinstance(base, str) or not base:
        hint = "write the base model's name or folder there as base_model_name_or_path"
        raise IncompatibleError(str(path), "the name of its base model", repr(base), hint)
    if not (folder / WEIGHTS).is_file():
        hint = "save the adapter again with safe_serialization"
        raise IncompatibleError(name, f"{WEIGHTS} of an adapter of {base}", "no such file", hint)
    read_header(folder / WEIGHTS)
    if importlib.util.find_spec("peft") is None:
        hint = "run `pip install 'sparserm[align]'`, or merge the adapter into its base"
        raise ResourceError(name, f"PEFT to apply an adapter of {base}", "not installed", hint)
    return base
