"""Promoted tokens against the whole model of transformers, for several architectures; read in slices."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import tiny_models

from sparserm_cli.analysis.describe import promoted_tokens
from sparserm_cli.analysis.describe.promoted_tokens import TOP, Unembedding
from sparserm_cli.errors import IncompatibleError
from sparserm_cli.models.checkpoints.resolve import load_tokenizer, resolve_model

ROWS = np.random.default_rng(0).standard_normal((3, 32)).astype(np.float32)
FINAL_NORMS = {"gpt2": "ln_f", "gpt_neox": "final_layer_norm", "phi": "final_layernorm"}


@pytest.mark.parametrize(
    ("arch", "tied"),
    [*((arch, False) for arch in ("llama", "gemma2", "gpt_neox", "phi")), ("gemma3", True), ("gpt2", True)],
)
def test_ends_are_those_of_the_whole_model(
    arch: str, tied: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The norm with its weights and biases, the LM head or the tied embedding; no special token."""
    from transformers import AutoModelForCausalLM

    monkeypatch.setattr(promoted_tokens, "ROWS", 100)
    folder = tiny_models.save_tiny(tmp_path / "model", arch, tie_word_embeddings=tied)
    whole = AutoModelForCausalLM.from_pretrained(folder).eval()
    norm = getattr(whole.base_model, FINAL_NORMS.get(arch, "norm"))
    with torch.inference_mode():
        logits = norm(torch.from_numpy(ROWS)) @ whole.get_output_embeddings().weight.T
    logits = logits[:, : tiny_models.VOCABULARY]
    logits = logits - logits.mean(dim=1, keepdim=True)
    identity = resolve_model(str(folder))
    all_ends = Unembedding(identity).ends(ROWS, load_tokenizer(identity))
    for ends, row in zip(all_ends, logits, strict=True):
        for side, sign in ((ends.promoted, 1), (ends.suppressed, -1)):
            top = (sign * row).topk(TOP)
            assert [token.id for token in side] == top.indices.tolist()
            np.testing.assert_allclose([token.logit for token in side], sign * top.values, atol=2e-5)


def test_texts_are_printable(tiny_model: Callable[..., Path]) -> None:
    """The tiny vocabulary holds every byte, control characters among them."""
    identity = resolve_model(str(tiny_model()))
    tokenizer = load_tokenizer(identity)
    ends = Unembedding(identity).ends(ROWS, tokenizer)
    assert all(
        ord(sign) >= 32 or sign in "\n\t"
        for row_ends in ends
        for token in row_ends.promoted
        for sign in token.text
    )


def test_a_model_without_a_head_is_refused_by_name(tmp_path: Path) -> None:
    """Its tensors are called otherwise."""
    from safetensors.torch import load_file, save_file

    folder = tiny_models.save_tiny(tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "lm_head" not in name and "embed" not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(IncompatibleError, match="expected an embedding among its weights, found "):
        Unembedding(resolve_model(str(folder)))
