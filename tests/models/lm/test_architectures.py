"""Eight architectures: vectors as transformers computes them, and ten broken checkpoints that are refused."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.broken_checkpoints import WAYS
from helpers.tiny_models import ARCHITECTURES

from sparserm_cli.errors import SparseRMError
from sparserm_cli.models.checkpoints.resolve import resolve_model
from sparserm_cli.models.lm.backbone import blocks_of, check_checkpoint
from sparserm_cli.models.lm.language_model import LanguageModel
from sparserm_cli.models.lm.residuals import iter_residuals
from sparserm_cli.models.lm.trie import Tree

Make = Callable[..., Path]
LAYER = 2


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_vectors_are_those_of_a_plain_forward_pass(architecture: str, tiny_model: Make) -> None:
    """Of a prompt with two responses, within 1e-5 of each vector's length in float32."""
    from transformers import AutoModelForCausalLM

    folder, rng = tiny_model(architecture), np.random.default_rng(0)
    tree = Tree(
        rng.integers(1, 256, 20, dtype=np.uint32),
        (rng.integers(1, 256, 6, dtype=np.uint32), rng.integers(1, 256, 3, dtype=np.uint32)),
    )
    whole = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    taken: list[torch.Tensor] = []
    blocks_of(whole)[LAYER].register_forward_hook(
        lambda _module, _inputs, output: taken.append(output[0] if isinstance(output, tuple) else output)
    )
    lm = LanguageModel.load(resolve_model(str(folder)), layers=[LAYER], dtype="float32", device="cpu")
    for _, number, residuals in iter_residuals(lm, [tree]):
        ids = np.concatenate([tree.prompt_ids, tree.responses[number]]).astype(np.int64)
        with torch.inference_mode():
            whole(torch.from_numpy(ids)[None], use_cache=False)
        expected = taken[-1][0, len(tree.prompt_ids) :]
        far = (residuals[LAYER] - expected).norm(dim=-1) / expected.norm(dim=-1)
        assert float(far.max()) < 1e-5
    assert len(taken) == 2


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_broken_checkpoint_is_refused(
    architecture: str, way: str, tmp_path: Path, tiny_model: Make
) -> None:
    """In one line that names the model, before any weight is read."""
    folder = shutil.copytree(tiny_model(architecture), tmp_path / "model")
    WAYS[way](folder)
    with pytest.raises(SparseRMError) as caught:
        check_checkpoint(resolve_model(str(folder)), [4 if way == "more blocks than weights" else LAYER])
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code in {4, 5}
