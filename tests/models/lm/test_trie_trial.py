"""Rounding: a trie in bfloat16 is as close to float32 as transformers is, also where scores are large."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sparserm_cli.models.checkpoints.resolve import resolve_model
from sparserm_cli.models.lm import trie_attention, trie_trial
from sparserm_cli.models.lm.language_model import LanguageModel
from sparserm_cli.models.lm.residuals import iter_residuals
from sparserm_cli.models.lm.trie import Tree

Make = Callable[..., Path]
MASSIVE = 1e4
"""Norm of the first token's residuals, as attention sinks have it."""


def plant_key_biases(model: Any) -> None:
    """Give keys biases of some hundreds, as Qwen 2.5 has them; queries, too, so that scores become large."""
    for block in model.model.layers:
        block.self_attn.k_proj.bias.mul_(0).add_(
            torch.linspace(-200, 200, block.self_attn.k_proj.out_features)
        )
        block.self_attn.q_proj.bias.add_(3)


def plant_massive_activation(model: Any) -> None:
    """Give the token that every sequence begins with a residual of norm 10,000 in two directions."""
    row = model.get_input_embeddings().weight[0]
    row.zero_()
    row[3], row[17] = 0.6 * MASSIVE, -0.8 * MASSIVE
    for block in model.model.layers:  # sinks have scores far above the others'
        block.self_attn.q_proj.weight.mul_(4)
        block.self_attn.k_proj.weight.mul_(4)


def plant_large_scores(model: Any) -> None:
    """Make scores so large that the cap bends them."""
    for block in model.model.layers:
        block.self_attn.q_proj.weight.mul_(8)


CASES = {
    "large key biases": ("qwen2", {}, plant_key_biases, 1.1),
    "massive activations": ("llama", {}, plant_massive_activation, 1.1),
    # transformers rounds scores before it caps them, so that a trie has to be better
    "capped scores": ("gemma2", {"attn_logit_softcapping": 50.0}, plant_large_scores, 0.9),
}
"""What is planted: architecture, changes of its configuration, a function that changes the weights, and the
most that a trie's relative error may be, as a multiple of that of plain rows."""


@pytest.fixture(params=CASES)
def planted(request: pytest.FixtureRequest, tiny_model: Make, tmp_path: Path) -> tuple[Path, float]:
    """Give the folder of a tiny model whose attention is hard to compute in bfloat16, and the bound."""
    arch, changes, plant, most = CASES[request.param]
    return changed(tiny_model(arch, **changes), tmp_path, plant), most


def changed(folder: Path, target: Path, plant: Callable[[Any], None]) -> Path:
    """Save a model with other weights, its tokenizer beside it."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        plant(model)
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(folder).save_pretrained(target)
    return target


def trees() -> list[Tree]:
    """Forty prompts that begin alike, with four responses each."""
    rng = np.random.default_rng(0)

    def ids(length: int) -> np.ndarray:
        return rng.integers(1, 256, length, dtype=np.uint32)

    system = np.append(np.uint32(0), ids(30))
    return [Tree(np.concatenate([system, ids(9)]), tuple(ids(12) for _ in range(4))) for _ in range(40)]


def vectors(lm: LanguageModel) -> torch.Tensor:
    """Return the mean and last residual vectors of all responses after block 3."""
    taken = {place[:2]: place[2][3].float() for place in iter_residuals(lm, trees())}
    return torch.stack([vector for key in sorted(taken) for vector in (taken[key].mean(0), taken[key][-1])])


def load(folder: Path, dtype: Any, *, tree: bool) -> LanguageModel:
    lm = LanguageModel.load(resolve_model(str(folder)), layers=[3], dtype=dtype, device="cpu")
    assert lm.supports_tree, lm.tree_reason
    lm.supports_tree = tree
    return lm


@pytest.mark.parametrize("fused", [False, True])
def test_a_trie_rounds_no_more_than_rows(
    planted: tuple[Path, float], fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The relative error against float32 is bounded by that of transformers, at 50 % and at 95 %."""
    folder, most = planted
    monkeypatch.setattr(trie_attention.Layout, "fused", property(lambda _layout: fused))
    exact = vectors(load(folder, "float32", tree=False))
    plain, tree = (
        np.quantile(((measured - exact).norm(dim=-1) / exact.norm(dim=-1)).numpy(), [0.5, 0.95])
        for measured in (vectors(load(folder, "bfloat16", tree=way)) for way in (False, True))
    )
    assert (plain > 1e-3).all()
    assert (tree <= most * plain).all(), (plain, tree)


def test_rounding_decides_against_a_trie(
    tiny_model: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trie whose scores are rounded before the softmax is found out by comparison with float32."""
    attend = trie_attention._attend

    def rounded(q: Any, k: Any, v: Any, bias: Any, *others: Any, **options: Any) -> torch.Tensor:
        if q.dtype == torch.float32:
            return attend(q, k, v, bias, *others, **options)
        scores = torch.baddbmm(bias.to(q.dtype).expand(len(q), -1, -1), q, k.transpose(1, 2), alpha=others[0])
        return torch.bmm(torch.softmax(scores, dim=-1), v)

    folder = changed(tiny_model("qwen2"), tmp_path, plant_key_biases)
    monkeypatch.setattr(trie_attention, "_attend", rounded)
    lm = LanguageModel.load(resolve_model(str(folder)), layers=[3], dtype="bfloat16", device="cpu")
    assert not lm.supports_tree
    assert re.fullmatch(
        r"qwen2 in bfloat16 as a trie: relative error \d+\.\d\d%, 95 % point \d+\.\d\d%; "
        r"plain rows \d+\.\d\d% and \d+\.\d\d%",
        lm.tree_reason,
    )
    exact = LanguageModel.load(resolve_model(str(folder)), layers=[3], dtype="float32", device="cpu")
    assert exact.supports_tree


def test_a_model_computes_in_float32_with_its_own_weights(tiny_model: Make) -> None:
    """Within the block of code a bfloat16 model is its weights in float32; afterwards it is as before."""
    folder = tiny_model("gpt2")
    coarse = LanguageModel.load(resolve_model(str(folder)), layers=[3], dtype="bfloat16", device="cpu")
    fine = LanguageModel.load(resolve_model(str(folder)), layers=[3], dtype="float32", device="cpu")
    before = {name: tensor.clone() for name, tensor in coarse.backbone.state_dict().items()}
    with torch.no_grad():
        for parameter in fine.backbone.parameters():
            parameter.copy_(parameter.bfloat16())
    ids = torch.arange(20)[None]
    mask = torch.ones_like(ids)
    rounded = coarse.forward_rows(ids, mask)[3]
    with trie_trial.computing_in_float32(coarse):
        assert coarse.dtype == "float32"
        logits = coarse.forward_rows(ids, mask)[3]
    torch.testing.assert_close(logits, fine.forward_rows(ids, mask)[3], rtol=1e-5, atol=1e-5)
    assert coarse.dtype == "bfloat16"
    assert torch.equal(coarse.forward_rows(ids, mask)[3], rounded)
    for name, tensor in coarse.backbone.state_dict().items():
        assert tensor.dtype == torch.bfloat16
        assert torch.equal(tensor, before[name])


def test_the_trial_reads_a_conversation(tiny_model: Make, tmp_path: Path) -> None:
    """The trial's sequences begin as the chat template begins; without a tokenizer they are spread ids."""
    lm = LanguageModel.load(resolve_model(str(tiny_model())), layers=[0], dtype="float32", device="cpu")
    rows = trie_trial.trial_rows(lm)
    assert [row.ids[0] for row in rows] == [256] * 3  # <|im_start|>
    assert min(len(row.ids) for row in rows) > 48
    for path in shutil.copytree(tiny_model(), tmp_path / "bare").glob("tokenizer*"):
        path.unlink()
    bare = LanguageModel.load(resolve_model(str(tmp_path / "bare")), layers=[0], device="cpu")
    assert bare.supports_tree
    assert [(len(row.ids), row.keep, int(row.ids.max()) < 258) for row in trie_trial.trial_rows(bare)] == [
        (48, 16, True)
    ] * 3
