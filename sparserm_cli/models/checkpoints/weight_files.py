"""Check from their headers alone that all files of a checkpoint are there and whole."""

import json
from collections.abc import Collection
from pathlib import Path

from sparserm_cli.errors import CorruptStoreError, IncompatibleError
from sparserm_cli.models.checkpoints.safetensors_header import DTYPES, read_header

INDEX = "model.safetensors.index.json"
"""Name of the file that maps tensors to files, if there are several files."""

PACKED = ("I8", "U8", "F8_E4M3", "F8_E5M2", "F4")
"""Types of packed weights, whose scale the configuration must give."""


def check_weight_files(name: str, folder: Path, *, quantised: bool) -> None:
    """Check every safetensors file of a model's folder, and that those of its index are there.

    Args:
        name: name that the user gave for the model.
        folder: folder of its files.
        quantised: whether its configuration says how packed weights are unpacked.

    Raises:
        CorruptStoreError: a file is missing, truncated, empty or a Git LFS pointer.
        IncompatibleError: weights are packed and the configuration does not say how.

    """
    for path in _indexed(folder):
        if not path.is_file():
            raise CorruptStoreError(str(path), f"a file, as {INDEX} says", "no such file", "download it")
    for path in sorted(folder.glob("*.safetensors")):
        packed = {
            tensor: fact.dtype
            for tensor, fact in read_header(path).items()
            if fact.dtype in PACKED and len(fact.shape) == 2 and not quantised
        }
        if packed:
            tensor, found = next(iter(packed.items()))
            expected = f"weights in {_listed(DTYPES.values())}, or a quantization_config in config.json"
            hint = "give the model's unquantised weights"
            raise IncompatibleError(f"{name}/{path.name}: {tensor}", expected, found, hint)


def _indexed(folder: Path) -> list[Path]:
    """Return the files that the index names.

    Raises:
        CorruptStoreError: the index cannot be read.

    """
    path = folder / INDEX
    try:
        names = set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
    except FileNotFoundError:
        return []
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        found, hint = type(error).__name__, "download it again"
        raise CorruptStoreError(str(path), "a list of tensors and files", found, hint) from None
    return [folder / name for name in sorted(names)]


def _listed(words: Collection[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} or {last}"
