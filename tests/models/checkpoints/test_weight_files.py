"""Files that are cut, empty, missing or no files at all: one line before anything is computed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sparserm_cli.errors import CorruptStoreError, IncompatibleError, SparseRMError
from sparserm_cli.models.checkpoints.config_shape import check_ids
from sparserm_cli.models.checkpoints.resolve import load_tokenizer, resolve_model
from sparserm_cli.models.lm.language_model import LanguageModel
from sparserm_cli.models.lm.residuals import iter_residuals
from sparserm_cli.models.lm.trie import Tree

Make = Callable[..., Path]
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
WEIGHTS = "model.safetensors"
POINTED = "expected the file's content, found a Git LFS pointer; run `git lfs pull` in its repository"
MATRIX = "model.layers.0.mlp.up_proj.weight"


def open_model(folder: Path, *, pickles: bool = False) -> None:
    """Do what every command does with a model before it computes."""
    identity = resolve_model(str(folder), pickles=pickles)
    load_tokenizer(identity)
    LanguageModel.load(identity, layers=[1], dtype="float32", device="cpu")


def cut(path: Path) -> None:
    """Leave the first 5,000 bytes of a file."""
    path.write_bytes(path.read_bytes()[:5000])


def as_shards(folder: Path) -> None:
    """Say that the weights lie in two files, of which one is missing."""
    files = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": files}))
    (folder / WEIGHTS).rename(folder / "model-1.safetensors")


def packed(folder: Path) -> None:
    """Store one matrix in whole numbers, without saying of what."""
    weights = load_file(folder / WEIGHTS)
    save_file(weights | {MATRIX: weights[MATRIX].to(torch.int8)}, folder / WEIGHTS)


@pytest.mark.parametrize(
    ("spoil", "kind", "message"),
    [
        (
            lambda folder: cut(folder / WEIGHTS),
            CorruptStoreError,
            f"/{WEIGHTS}: expected 218632 bytes, found 5000; download it again",
        ),
        (
            lambda folder: (folder / WEIGHTS).write_bytes(b""),
            CorruptStoreError,
            f"/{WEIGHTS}: expected the file's content, found an empty file; download it again",
        ),
        (
            lambda folder: (folder / WEIGHTS).write_text(POINTER),
            CorruptStoreError,
            f"/{WEIGHTS}: {POINTED}",
        ),
        (
            lambda folder: (folder / "config.json").write_text(POINTER),
            CorruptStoreError,
            f"/config.json: {POINTED}",
        ),
        (
            as_shards,
            CorruptStoreError,
            (
                f"/model-2.safetensors: expected a file, as {WEIGHTS}.index.json says, found no such file; "
                "download it"
            ),
        ),
        (
            packed,
            IncompatibleError,
            (
                f"/{WEIGHTS}: {MATRIX}: expected weights in float64, float32, float16 or bfloat16, or a "
                "quantization_config in config.json, found I8; give the model's unquantised weights"
            ),
        ),
        (
            lambda folder: (folder / "config.json").write_text("[1]"),
            IncompatibleError,
            "/config.json: expected a transformers model, found a JSON list; give --model a model",
        ),
        (
            lambda folder: (folder / "tokenizer.json").unlink(),
            IncompatibleError,
            (
                ": expected a tokenizer beside the model, found no tokenizer.json (tokenizer_config.json); "
                "copy tokenizer.json and tokenizer_config.json from the model that it was trained from"
            ),
        ),
        (
            lambda folder: (folder / "tokenizer.json").write_text(POINTER),
            CorruptStoreError,
            f"/tokenizer.json: {POINTED}",
        ),
    ],
    ids=["cut", "empty", "pointer", "config", "shard", "packed", "list", "no tokenizer", "tokenizer"],
)
def test_a_file_that_is_no_use_is_named(
    spoil: Callable[[Path], object], kind: type[SparseRMError], message: str, tmp_path: Path, tiny_model: Make
) -> None:
    """Which file, what was expected, what is there, what to do."""
    folder = shutil.copytree(tiny_model(), tmp_path / "model")
    spoil(folder)
    with pytest.raises(kind) as caught:
        open_model(folder)
    assert str(caught.value) == f"{folder}{message}"


def test_pickles_that_are_no_files(tmp_path: Path, tiny_model: Make) -> None:
    """A `.bin` file is looked at as a safetensors file is."""
    folder = shutil.copytree(tiny_model(), tmp_path / "model")
    (folder / WEIGHTS).unlink()
    path = folder / "pytorch_model.bin"
    path.write_text(POINTER)
    with pytest.raises(CorruptStoreError, match="found a Git LFS pointer"):
        open_model(folder, pickles=True)
    path.write_bytes(b"neither a pointer nor a pickle")
    with pytest.raises(IncompatibleError, match="expected a model that transformers loads, found"):
        open_model(folder, pickles=True)


def test_a_token_id_beyond_the_embedding(tiny_model: Make) -> None:
    """A tokenizer with more words than the model is one line, in a plan as in a batch."""
    expected = "some/model: expected token ids below 258, the rows of its embedding, found 258; "
    check_ids("some/model", np.array([0, 257], np.uint32), 258)
    with pytest.raises(IncompatibleError) as caught:
        check_ids("some/model", np.array([258], np.uint32), 258)
    assert str(caught.value) == f"{expected}use the tokenizer that the model was trained with"
    lm = LanguageModel.load(resolve_model(str(tiny_model())), layers=[0], dtype="float32", device="cpu")
    tree = Tree(np.array([1, 2], np.uint32), (np.array([258], np.uint32),))
    with pytest.raises(IncompatibleError, match="expected token ids below 258"):
        list(iter_residuals(lm, [tree]))
