"""The safetensors format read with numpy alone: names, shapes, and single rows of a large matrix.

A file is 8 bytes of header length (little endian), a JSON header {name: {dtype, shape, data_offsets}}, then
the data. Reading rows this way costs what the rows cost, and needs neither torch nor the whole file.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from sparserm_cli.errors import CorruptStoreError

_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_WORDS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_HEADER_LIMIT = 100 << 20
"""The format's own bound of the header's length in bytes."""

LFS_START = b"version https://git-lfs"
"""First bytes of a Git LFS pointer."""


class TensorFact(NamedTuple):
    """What the header says of one tensor.

    Fields:
        dtype: torch's word, such as `bfloat16`, or the format's for types that no weights have.
        shape: its axes.
        start: offset of its first byte in the file.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int


def check_whole(path: Path) -> None:
    """Check that a file holds something, and is not what Git leaves in place of a large file.

    Raises:
        CorruptStoreError: it is empty or a Git LFS pointer.

    """
    with path.open("rb") as file:
        start = file.read(len(LFS_START))
    if start in {b"", LFS_START}:
        found = "a Git LFS pointer" if start else "an empty file"
        hint = "run `git lfs pull` in its repository" if start else "download it again"
        raise CorruptStoreError(str(path), "the file's content", found, hint)


def read_header(path: Path) -> dict[str, TensorFact]:
    """Read names, types and shapes of a file's tensors.

    Raises:
        CorruptStoreError: it is no safetensors file, or cut.

    """
    check_whole(path)
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header: Any = json.loads(file.read(length)) if 0 < length <= _HEADER_LIMIT else None
        facts = {
            name: TensorFact(
                _WORDS.get(item["dtype"], item["dtype"]),
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


def read_rows(path: Path, tensor: str, rows: Sequence[int]) -> Float32[np.ndarray, "rows width"]:
    """Read some rows of a matrix as float32.

    Raises:
        CorruptStoreError: no such tensor, no matrix of floating-point numbers, or fewer rows than asked for.

    """
    header = read_header(path)
    fact = header.get(tensor)
    codes = {word: code for code, word in _WORDS.items()}
    if (
        fact is None
        or len(fact.shape) != 2
        or fact.dtype not in codes
        or max(rows, default=0) >= fact.shape[0]
    ):
        expected = f"a matrix {tensor} with at least {max(rows, default=0) + 1} rows"
        raise CorruptStoreError(
            str(path), expected, str(fact), "use the SAE that the features were made with"
        )
    matrix = np.memmap(path, _TYPES[codes[fact.dtype]], "r", fact.start, fact.shape)
    taken = np.asarray(matrix[np.asarray(rows, dtype=np.int64)])
    if fact.dtype == "bfloat16":  # bfloat16 is the upper half of a float32
        return (taken.astype(np.uint32) << 16).view(np.float32)
    return taken.astype(np.float32)
