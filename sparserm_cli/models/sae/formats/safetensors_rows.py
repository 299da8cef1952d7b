"""Single rows of a large matrix in a safetensors file, read with numpy alone.

The cost depends on the number of rows alone; neither torch nor the whole file is needed.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from sparserm_cli.errors import CorruptStoreError
from sparserm_cli.models.checkpoints.safetensors_header import DTYPES, read_header

_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


def read_rows(path: Path, tensor: str, rows: Sequence[int]) -> Float32[np.ndarray, "rows width"]:
    """Read some rows of a matrix as float32.

    Raises:
        CorruptStoreError: there is no such tensor, it is no matrix of floating-point numbers, or it has too
            few rows.

    """
    header = read_header(path)
    fact = header.get(tensor)
    codes = {word: code for code, word in DTYPES.items()}
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
