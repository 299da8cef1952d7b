"""Control vectors of llama.cpp: a .gguf file with one vector per steered block.

llama.cpp adds the tensor `direction.N` to the residual stream after block N, counted from 0, at every token;
it has no place for block 0. Tensors are float32 of the width of the residual stream.

| key | |
|---|---|
| general.architecture | `controlvector`, MUST |
| controlvector.model_hint | architecture of the language model, in llama.cpp's words |
| controlvector.layer_count | number of vectors |
| sparserm.* | where the vectors come from, one key per fact; other programs do not read them |
"""

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from sparserm_cli.errors import IncompatibleError
from sparserm_cli.store.io.atomic import atomic_file

ARCHITECTURE = "controlvector"
_DIRECTION, _OWN = "direction.", "sparserm."
_UNREADABLE = (OSError, ValueError, LookupError, struct.error)


class ControlVector(NamedTuple):
    """The content of a control vector's file.

    Fields:
        vectors: block, from 0, to the vector that is added after it.
        model_hint: architecture of the language model, in llama.cpp's words; empty if it is not known.
        facts: where the vectors come from, by name; only files written here have them.
    """

    vectors: Mapping[int, Float32[np.ndarray, " d_in"]]
    model_hint: str
    facts: Mapping[str, str | float]


def write_control_vector(path: Path, control: ControlVector) -> None:
    """Write a control vector whole or not at all.

    Args:
        path: the `.gguf` file.
        control: its content.

    Raises:
        ValueError: a vector of block 0, which llama.cpp cannot use.
        ResourceError: the disk is full.

    """
    from gguf import GGUFWriter

    if min(control.vectors) < 1:
        raise ValueError("a vector of block 0")
    with atomic_file(path, sum(vector.nbytes for vector in control.vectors.values())) as part:
        writer = GGUFWriter(part, ARCHITECTURE)
        writer.add_string(f"{ARCHITECTURE}.model_hint", control.model_hint)
        writer.add_int32(f"{ARCHITECTURE}.layer_count", len(control.vectors))
        for name, fact in control.facts.items():
            if isinstance(fact, str):
                writer.add_string(_OWN + name, fact)
            else:
                writer.add_float64(_OWN + name, fact)
        for layer, vector in sorted(control.vectors.items()):
            writer.add_tensor(f"{_DIRECTION}{layer}", np.ascontiguousarray(vector, np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def read_control_vector(path: Path) -> ControlVector:
    """Read a control vector, also one that another program has written.

    Raises:
        IncompatibleError: there is no such file, or it holds no control vector.

    """
    from gguf import GGUFReader

    try:
        reader = GGUFReader(path)
        facts: dict[str, Any] = {name: field.contents() for name, field in reader.fields.items()}
        tensors = {tensor.name: (tensor.tensor_type.name, tensor.data) for tensor in reader.tensors}
    except _UNREADABLE as error:
        raise _refused(path, "no such file" if isinstance(error, FileNotFoundError) else str(error)) from None
    kind = facts.get("general.architecture")
    if kind != ARCHITECTURE:
        raise _refused(path, f"a file of the architecture {kind}")
    vectors = {}
    for name, (number_type, data) in tensors.items():
        layer = name.removeprefix(_DIRECTION)
        if not layer.isdecimal() or number_type != "F32" or data.ndim != 1 or not np.isfinite(data).all():
            raise _refused(path, f"a tensor {name} of type {number_type} and shape {data.shape}")
        vectors[int(layer)] = np.array(data, np.float32)
    if len({vector.shape for vector in vectors.values()}) != 1:
        raise _refused(path, f"vectors of {len({vector.shape for vector in vectors.values()})} lengths")
    own = {name.removeprefix(_OWN): fact for name, fact in facts.items() if name.startswith(_OWN)}
    return ControlVector(vectors, str(facts.get(f"{ARCHITECTURE}.model_hint", "")), own)


def _refused(path: Path, found: str) -> IncompatibleError:
    expected = "a control vector: float32 tensors direction.N in a .gguf file"
    return IncompatibleError(
        str(path), expected, found, "write one with `sparserm export --to control-vector`"
    )
