"""Names, types and shapes in a safetensors file, read without torch and without the weights.

A file is 8 bytes of header length (little endian), a JSON header {name: {dtype, shape, data_offsets}}, then
the data.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from sparserm_cli.errors import CorruptStoreError

DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Mapping from the format's names of the types of weights to torch's names."""

_HEADER_LIMIT = 100 << 20
"""Largest length of a header that the format allows, in bytes."""

LFS_START = b"version https://git-lfs"
"""First bytes of a Git LFS pointer."""


class TensorFact(NamedTuple):
    """The header's entry of one tensor.

    Fields:
        dtype: torch's name, such as `bfloat16`, or the format's name for types that no weights have.
        shape: sizes of its axes.
        start: offset of its first byte in the file.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int


def check_whole(path: Path) -> None:
    """Check that a file is not empty and is no Git LFS pointer, which stands for a large file.

    Raises:
        CorruptStoreError: the file is empty or a Git LFS pointer.

    """
    with path.open("rb") as file:
        start = file.read(len(LFS_START))
    if start in {b"", LFS_START}:
        found = "a Git LFS pointer" if start else "an empty file"
        hint = "run `git lfs pull` in its repository" if start else "download it again"
        raise CorruptStoreError(str(path), "the file's content", found, hint)


def read_header(path: Path) -> dict[str, TensorFact]:
    """Read the names, types and shapes of a file's tensors.

    Raises:
        CorruptStoreError: the file is no safetensors file, or it is truncated.

    """
    check_whole(path)
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header: Any = json.loads(file.read(length)) if 0 < length <= _HEADER_LIMIT else None
        facts = {
            name: TensorFact(
                DTYPES.get(item["dtype"], item["dtype"]),
                tuple(item["shape"]),
                8 + length + item["data_offsets"][0],
            )
            for name, item in header.items()
            if name != "__metadata__"
        }
        end = (
            8
            + length
            + max(
                (item["data_offsets"][1] for name, item in header.items() if name != "__metadata__"),
                default=0,
            )
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise CorruptStoreError(
            str(path), "a safetensors file", type(error).__name__, "download it again"
        ) from None
    if path.stat().st_size != end:
        raise CorruptStoreError(str(path), f"{end} bytes", f"{path.stat().st_size}", "download it again")
    return facts
