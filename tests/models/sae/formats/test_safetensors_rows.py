"""The safetensors format read with numpy alone equals what the safetensors package reads."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from sparserm_cli.errors import CorruptStoreError
from sparserm_cli.models.checkpoints.safetensors_header import TensorFact, read_header
from sparserm_cli.models.sae.formats.safetensors_rows import read_rows

JSON_VALUES = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
JSON_TEXTS = JSON_VALUES.map(lambda value: json.dumps(value).encode())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_rows_are_widened_exactly(dtype: torch.dtype, tmp_path: Path) -> None:
    """Any floating type, rows in any order and twice."""
    matrix = torch.randn(7, 5).to(dtype)
    save_file({"other": torch.zeros(3), "W_dec": matrix}, tmp_path / "file.safetensors")
    read = read_rows(tmp_path / "file.safetensors", "W_dec", [6, 0, 6])
    assert read.dtype == np.float32
    assert np.array_equal(read, matrix[[6, 0, 6]].float().numpy())


def test_header_tells_types_shapes_and_places(tmp_path: Path) -> None:
    """The start of a tensor is where its bytes are."""
    save_file({"a": torch.arange(6.0).reshape(2, 3)}, tmp_path / "file.safetensors")
    header = read_header(tmp_path / "file.safetensors")
    assert set(header) == {"a"}
    assert header["a"][:2] == ("float32", (2, 3))
    content = (tmp_path / "file.safetensors").read_bytes()[header["a"].start :]
    assert np.array_equal(np.frombuffer(content, np.float32), np.arange(6.0, dtype=np.float32))
    assert TensorFact("float32", (2, 3), header["a"].start) == header["a"]


@pytest.mark.parametrize(("tensor", "rows"), [("none", [0]), ("vector", [0]), ("whole", [0]), ("W_dec", [4])])
def test_what_is_not_there_is_named(tensor: str, rows: list[int], tmp_path: Path) -> None:
    """No such tensor, no matrix, whole numbers, too few rows."""
    tensors = {
        "vector": torch.zeros(4),
        "whole": torch.zeros(4, 2, dtype=torch.int64),
        "W_dec": torch.zeros(4, 2),
    }
    save_file(tensors, tmp_path / "file.safetensors")
    with pytest.raises(
        CorruptStoreError, match=f"expected a matrix {tensor} with at least {rows[0] + 1} rows"
    ):
        read_rows(tmp_path / "file.safetensors", tensor, rows)


def test_cut_and_foreign_files_are_refused(tmp_path: Path) -> None:
    """Every proper beginning of a file is refused, and so are other bytes."""
    path = tmp_path / "file.safetensors"
    save_file({"W_dec": torch.ones(3, 2)}, path)
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(CorruptStoreError):
            read_header(path)
    path.write_bytes(content + b"\0")
    with pytest.raises(CorruptStoreError, match=f"expected {len(content)} bytes, found {len(content) + 1}"):
        read_header(path)


@pytest.mark.slow
@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60) | JSON_TEXTS)
def test_arbitrary_headers_give_one_kind_of_error(tmp_path: Path, header: bytes) -> None:
    """Whatever stands where the header should be: no tensors, or an error that names the file."""
    path = tmp_path / "file.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    tensors: object = None
    try:
        tensors = read_header(path)
    except CorruptStoreError as error:
        tensors = str(path) in str(error)
    assert tensors in ({}, True)
