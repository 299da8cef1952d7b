"""Files that are cut, empty, pointers or of another content: one line each, and never a traceback."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sparserm_cli.errors import CorruptStoreError, IncompatibleError, SparseRMError
from sparserm_cli.models.sae.load import load_sae, read_sae_metadata

pytestmark = pytest.mark.slow

families = run_path(str(Path(__file__).with_name("test_public_families.py")))
FAMILIES: Mapping[str, tuple[Callable[[Path], Path], Any, Any]] = families["FAMILIES"]
NUMPY = ("Gemma Scope", "Gemma Scope, lower case", "Gemma Scope, with a path")
"""Their tensors are read as those of the second release."""
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"
VALUES = (None, [], {}, "x", -1, 2.5, True)


def written(family: str, root: Path) -> tuple[Path, Path]:
    """Write a family's files; return the path to load and the folder."""
    path = FAMILIES[family][0](root)
    return path, path.parent if path.is_file() else path


def broken(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield a configuration without each key, and with other kinds of value in its place, at any depth."""
    for key, value in config.items():
        yield {name: other for name, other in config.items() if name != key}
        yield from ({**config, key: other} for other in VALUES)
        if isinstance(value, dict):
            yield from ({**config, key: inner} for inner in broken(value))


REFUSED = {
    "SAELens": 41,
    "SAELens, BatchTopK in training": 33,
    "SAELens, JumpReLU in training": 33,
    "Gemma Scope 2": 30,
    "Gemma Scope 2, one place": 17,
    "Llama Scope": 22,
    "Llama Scope R1-Distill": 15,
    "sparsify": 24,
    "dictionary_learning, k in the settings": 40,
    "dictionary_learning, k in the weights": 38,
    "dictionary_learning, BatchTopK": 38,
}
"""How many of the broken configurations of each family, that has one, are refused; the others are read."""


@pytest.mark.parametrize("family", REFUSED)
def test_any_configuration_is_read_or_refused_in_one_line(family: str, tmp_path: Path) -> None:
    """A key that is missing, or of another type, is named; no other error is raised."""
    path, folder = written(family, tmp_path)
    refused = []
    for file in folder.glob("*.json"):
        config = json.loads(file.read_text())
        for changed in broken(config):
            file.write_text(json.dumps(changed))
            try:
                load_sae(path, allow_pickle=True, allow_mismatch=True)
            except SparseRMError as error:
                refused.append(str(error))
        file.write_text(json.dumps(config))
    assert len(refused) == REFUSED[family]
    assert not any("\n" in message for message in refused)
    load_sae(path, allow_pickle=True)


def test_every_family_with_a_configuration_is_broken(tmp_path: Path) -> None:
    """A family that gets a configuration must stand in the table above."""
    folders = {}
    for number, family in enumerate(FAMILIES):
        (tmp_path / str(number)).mkdir()
        folders[family] = written(family, tmp_path / str(number))[1]
    assert {family for family, folder in folders.items() if list(folder.glob("*.json"))} == REFUSED.keys()


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in NUMPY])
def test_any_tensor_is_read_or_refused_in_one_line(family: str, tmp_path: Path) -> None:
    """A tensor that is missing, empty, of other axes, or not of numbers is named."""
    path, folder = written(family, tmp_path)
    files = [file for end in ("safetensors", "pt", "pth") for file in folder.rglob(f"*.{end}")]
    weights = files[0]
    pickled = weights.suffix != ".safetensors"
    tensors = torch.load(weights) if pickled else load_file(weights)
    write = torch.save if pickled else save_file
    for name, tensor in tensors.items():
        empty, cube = torch.zeros(0), torch.zeros(1, 1, 1)
        nothing = torch.full_like(tensor, float("nan")) if tensor.is_floating_point() else cube
        for other in (None, empty, cube, nothing):
            changed = {key: value for key, value in tensors.items() if key != name}
            write(changed if other is None else {**changed, name: other}, weights)
            if name == "k" and other is None:  # the settings say it as well
                continue
            with pytest.raises(SparseRMError, match=name.split(".")[0].split("_")[-1]):
                load_sae(path, allow_pickle=True)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("content", [b"", POINTER, b"PK\x03\x04cut"])
def test_files_that_are_not_there_in_full(family: str, content: bytes, tmp_path: Path) -> None:
    """An empty file, a Git LFS pointer and a cut one are told apart from what they stand for."""
    path, folder = written(family, tmp_path)
    for file in sorted(entry for entry in folder.rglob("*") if entry.is_file()):
        kept = file.read_bytes()
        file.write_bytes(content)
        with pytest.raises(SparseRMError) as caught:
            load_sae(path, allow_pickle=True)
        assert "\n" not in str(caught.value)
        if content.startswith(b"version"):
            message = (
                "expected the file's content, found a Git LFS pointer; run `git lfs pull` in its repository"
            )
            assert str(caught.value) == f"{file}: {message}"
            assert caught.value.exit_code == CorruptStoreError.exit_code
        file.write_bytes(kept)


def test_topk_without_k(tmp_path: Path) -> None:
    """The metadata name it, before any weight is read."""
    path, folder = written("SAELens", tmp_path)
    config = json.loads((folder / "cfg.json").read_text())
    del config["k"]
    (folder / "cfg.json").write_text(json.dumps(config))
    with pytest.raises(IncompatibleError) as caught:
        read_sae_metadata(path)
    assert (
        str(caught.value) == f"{path}: k: expected a whole number above 0, found None; download the SAE again"
    )


def test_old_dictionary_without_any_k(tmp_path: Path) -> None:
    """Neither the settings nor the weights say how many latents are active."""
    path = families["dictionary"]("AutoEncoderTopK", {"b_dec": torch.zeros(2)})(tmp_path)
    with pytest.raises(IncompatibleError, match=r"expected a tensor k, found b_dec, decoder\.weight"):
        load_sae(path, allow_pickle=True)


def test_short_bias_is_not_spread_over_all_latents(tmp_path: Path) -> None:
    """Torch would broadcast one number over every latent."""
    path, folder = written("SAELens", tmp_path)
    weights = folder / "sae_weights.safetensors"
    save_file(load_file(weights) | {"b_enc": torch.zeros(1)}, weights)
    with pytest.raises(IncompatibleError, match=r"expected b_enc of shape \(3,\), found \(1,\)"):
        load_sae(path)
