"""One more format is one module and one entry in the table: a made-up one is read by everything."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sparserm_cli.errors import UsageError
from sparserm_cli.models.sae import releases
from sparserm_cli.models.sae.decoder_rows import load_decoder
from sparserm_cli.models.sae.formats import FORMATS
from sparserm_cli.models.sae.formats.base import (
    SAEFormat,
    Tensors,
    Weights,
    described,
    read_settings,
    whole_number,
)
from sparserm_cli.models.sae.load import load_sae, read_sae_metadata
from sparserm_cli.models.sae.metadata import LocalSAE, SAEMetadata


def read_metadata(files: LocalSAE) -> SAEMetadata:
    """Read `toy.json`, which says the block and k."""
    settings = read_settings(files.folder / "toy.json")
    hook = f"model.layers.{whole_number(files, settings, 'block')}"
    return described(
        files, "topk", hook_name=hook, settings=settings | {"k": whole_number(files, settings, "k")}
    )


def to_weights(metadata: SAEMetadata, t: Tensors) -> Weights:
    """Take the k largest of x @ down.T; there are no biases."""
    down, up = t.matrix("down"), t.matrix("up")
    zeros = down.new_zeros(len(down)), up.new_zeros(up.shape[1])
    return Weights(down.T, zeros[0], up, zeros[1], k=int(metadata.settings["k"]))


TOY = SAEFormat(
    "toy",
    read_metadata,
    to_weights,
    files=("toy.json", "toy.safetensors"),
    sae_lens_loaders=("toy_loader",),
    decoder_tensor="up",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write a toy SAE: its latents are both axes and one of them reversed; two are active."""
    (tmp_path / "toy.json").write_text(json.dumps({"block": 2, "k": 2}))
    down = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    up = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    save_file({"down": down, "up": up}, tmp_path / "toy.safetensors")
    return tmp_path


def test_a_new_format_is_read_by_everything(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the entry nobody knows the files; after it, metadata, latents, directions and releases do."""
    with pytest.raises(UsageError, match="found a folder without those files"):
        load_sae(folder)
    monkeypatch.setitem(FORMATS, "toy", TOY)
    metadata = read_sae_metadata(folder)
    assert (metadata.format, metadata.layer, metadata.architecture) == ("toy", 2, "topk")
    sae = load_sae(folder)
    assert sae.encode(torch.tensor([[-3.0, 2.0]])).tolist() == [[0.0, 2.0, 3.0]]
    assert sae.reconstruct(torch.tensor([[-3.0, 2.0]]))[0].tolist() == [[-3.0, 2.0]]
    assert load_decoder(folder, [2]).tolist() == [[-1.0, 0.0]]
    table = {"saes": [{"id": "a", "path": "p"}], "repo_id": "org/repo", "conversion_func": "toy_loader"}
    monkeypatch.setattr(releases, "_table_of", lambda name: table if name == "toys" else None)
    assert releases.find_release("toys/a").repo == "org/repo"
    with pytest.raises(UsageError, match=r"goodfire, toy, found no such folder"):
        load_sae(folder / "nothing")


def test_every_format_is_told_by_something() -> None:
    """No entry without files or a pattern, no two with the same files, no loader twice."""
    assert all(bool(kind.files) != bool(kind.file_pattern) for kind in FORMATS.values())
    files = [kind.files or kind.file_pattern for kind in FORMATS.values()]
    assert len(set(files)) == len(files)
    loaders = [loader for kind in FORMATS.values() for loader in kind.sae_lens_loaders]
    assert len(set(loaders)) == len(loaders)
