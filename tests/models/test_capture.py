"""Capture: the same vectors as the plain forward, in any company."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from sparserm_cli.models.capture import capture
from sparserm_cli.models.identity import resolve_model
from sparserm_cli.models.lm import LanguageModel
from sparserm_cli.models.tree import Tree

ARCHITECTURES = ("llama", "gemma2", "gemma3", "qwen3", "gpt2", "gpt_neox", "mistral", "phi")


def random_trees(seed: int = 0) -> list[Tree]:
    rng = np.random.default_rng(seed)
    ids = lambda n: rng.integers(0, 256, n, dtype=np.uint32)  # noqa: E731
    return [
        Tree(ids(p), tuple(ids(r) for r in lengths))
        for p, lengths in ((7, (3, 5)), (12, (1, 4, 9)), (3, (6,)))
    ]


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_equals_the_whole_model(arch: str, tiny_model: Callable[..., Path]) -> None:
    """Captured residuals equal the full model's hidden states, one response a row."""
    from transformers import AutoModelForCausalLM

    folder = tiny_model(arch)
    lm = LanguageModel.load(resolve_model(str(folder)), layers=[0, 2], dtype="float32", device="cpu")
    whole = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    trees = random_trees()
    seen = 0
    for t, r, residuals in capture(lm, trees):
        row = np.concatenate([trees[t].prompt_ids, trees[t].responses[r]]).astype(np.int64)
        with torch.inference_mode():
            states = whole(torch.from_numpy(row)[None], output_hidden_states=True).hidden_states
        for layer in (0, 2):
            expected = states[layer + 1][0, -len(trees[t].responses[r]) :]
            torch.testing.assert_close(residuals[layer], expected, rtol=1e-4, atol=1e-4)
        seen += 1
    assert seen == 6
