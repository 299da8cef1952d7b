"""Directions read alone equal those of the loaded SAE."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sparserm_cli.errors import CorruptStoreError
from sparserm_cli.models.sae.decoder_rows import load_decoder
from sparserm_cli.models.sae.load import load_sae


def saelens(folder: Path, **changes: object) -> Path:
    """Write a small SAE in SAELens' format, its weights in bfloat16."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    shapes = {"W_enc": (4, 10), "b_enc": (10,), "W_dec": (10, 4), "b_dec": (4,)}
    tensors = {name: torch.randn(shape, generator=generator).bfloat16() for name, shape in shapes.items()}
    save_file(tensors, folder / "sae_weights.safetensors")
    config = {"architecture": "standard", "d_in": 4, "d_sae": 10, "dtype": "float32"}
    (folder / "cfg.json").write_text(
        json.dumps({**config, **changes, "metadata": {"sae_lens_version": "6.0"}})
    )
    return folder


def test_rows_equal_those_of_the_loaded_sae(tmp_path: Path) -> None:
    """Also where the decoder is scaled on loading."""
    plain = saelens(tmp_path / "plain")
    scaled = saelens(
        tmp_path / "b", normalize_activations="expected_average_only_in", norm_scaling_factor=4.0
    )
    for folder in (plain, scaled):
        expected = load_sae(folder).W_dec[[9, 2]].numpy()
        assert np.array_equal(load_decoder(folder, [9, 2]), expected)
    assert np.array_equal(load_decoder(plain, [1]), load_decoder(scaled, [1]) * 4)


def test_latents_that_are_not_there_are_named(tmp_path: Path) -> None:
    """Ten latents have numbers 0 to 9."""
    with pytest.raises(CorruptStoreError, match="expected a matrix W_dec with at least 11 rows"):
        load_decoder(saelens(tmp_path / "sae"), [10])


def test_metadata_and_directions_need_neither_torch_nor_sae_lens(tmp_path: Path) -> None:
    """select, status and extract's --layer ask for them, and must stay fast."""
    folder = saelens(tmp_path / "sae")
    program = (
        "import sys\n"
        "from sparserm_cli.models.sae.load import read_sae_metadata\n"
        "from sparserm_cli.models.sae.decoder_rows import load_decoder\n"
        f"assert read_sae_metadata({str(folder)!r}).d_sae == 10\n"
        f"assert load_decoder({str(folder)!r}, [3]).shape == (1, 4)\n"
        "sys.exit(len({'torch', 'sae_lens', 'transformers'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
