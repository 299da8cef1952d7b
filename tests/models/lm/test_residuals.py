"""Capture: the same vectors as the whole model's plain forward, in any company."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sparserm_cli.errors import IncompatibleError
from sparserm_cli.models.checkpoints.resolve import resolve_model
from sparserm_cli.models.lm.language_model import LanguageModel
from sparserm_cli.models.lm.residuals import default_batch_tokens, iter_residuals, pool
from sparserm_cli.models.lm.trie import Tree

ARCHITECTURES = ("llama", "gemma2", "gemma3", "qwen3", "gpt2", "gpt_neox", "mistral", "phi")
Make = Callable[..., Path]


def random_trees(seed: int = 0) -> list[Tree]:
    """Three prompts, two of which begin alike, with one to three responses of 1 to 9 tokens."""
    rng = np.random.default_rng(seed)

    def ids(length: int) -> np.ndarray:
        return rng.integers(0, 256, length, dtype=np.uint32)

    system = ids(6)
    prompts = [np.concatenate([system, ids(5)]), np.concatenate([system, ids(9)]), ids(3)]
    lengths = [(3, 5), (1, 4, 9), (6,)]
    return [Tree(prompt, tuple(map(ids, sizes))) for prompt, sizes in zip(prompts, lengths, strict=True)]


def load(folder: Path, layers: Sequence[int] = (0, 2), dtype: Any = "float32") -> LanguageModel:
    return LanguageModel.load(resolve_model(str(folder)), layers=layers, dtype=dtype, device="cpu")


def whole_model(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def captured(
    lm: LanguageModel, trees: Sequence[Tree], **options: Any
) -> dict[tuple[int, int, int], torch.Tensor]:
    return {
        (t, r, layer): x for t, r, taken in iter_residuals(lm, trees, **options) for layer, x in taken.items()
    }


def assert_plain(folder: Path, lm: LanguageModel, trees: Sequence[Tree], **options: Any) -> None:
    """Compare with the whole model, one response a row, no mask, no padding."""
    whole, taken = whole_model(folder), captured(lm, trees, **options)
    assert len(taken) == sum(len(tree.responses) for tree in trees) * len(lm.layers)
    for (t, r, layer), residuals in taken.items():
        response = trees[t].responses[r]
        row = np.concatenate([trees[t].prompt_ids, response]).astype(np.int64)
        with torch.inference_mode():
            states = whole(torch.from_numpy(row)[None], output_hidden_states=True).hidden_states
        expected = states[layer + 1][0, -len(response) :]
        assert (residuals - expected).norm() <= 1e-4 * expected.norm()


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_tree_equals_the_plain_forward(arch: str, tiny_model: Make) -> None:
    """On every architecture the tree gives what one response a row gives."""
    lm = load(tiny_model(arch))
    assert lm.supports_tree, lm.tree_reason
    assert_plain(tiny_model(arch), lm, random_trees())


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_padded_rows_equal_the_plain_forward(
    arch: str, tiny_model: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path for models without tree support gives the same."""
    lm = load(tiny_model(arch))
    monkeypatch.setattr(lm, "supports_tree", False)
    facts: dict[str, Any] = {}
    assert_plain(tiny_model(arch), lm, random_trees(), facts=facts)
    assert facts["path"] == "plain"
    assert facts["batch_sizes"] == [6 * 24]


@pytest.mark.parametrize("arch", ["mistral", "gemma2", "gemma3", "qwen3"])
def test_a_sliding_window_smaller_than_the_sequence(arch: str, tiny_model: Make) -> None:
    """A window of 5 positions counts along each response's own sequence."""
    changes: dict[str, Any] = {"sliding_window": 5}
    if arch == "qwen3":
        changes |= {"use_sliding_window": True, "max_window_layers": 1}
    folder = tiny_model(arch, **changes)
    lm = load(folder)
    assert lm.supports_tree
    assert_plain(folder, lm, random_trees())


def test_capped_scores(tiny_model: Make) -> None:
    """Gemma-2's cap on attention scores is applied where it bites."""
    folder = tiny_model("gemma2", attn_logit_softcapping=0.5)
    assert_plain(folder, load(folder), random_trees())


@pytest.mark.parametrize(
    ("arch", "reason"),
    [
        ("bloom", "bloom brings an attention of its own"),
        ("gpt_oss", "gpt_oss: its attention takes s_aux"),
        ("minimax", "minimax has blocks of linear_attention"),
    ],
)
def test_what_has_no_tree_is_recognised(arch: str, reason: str, tiny_model: Make) -> None:
    """ALiBi, attention sinks and linear attention take the plain path, with the same results."""
    changes = {"minimax": {"layer_types": ["linear_attention", "full_attention"] * 2}}.get(arch, {})
    folder = tiny_model(arch, **changes)
    lm = load(folder)
    assert (lm.supports_tree, lm.tree_reason) == (False, reason)
    assert_plain(folder, lm, random_trees())


def test_angles_that_depend_on_length(tiny_model: Make) -> None:
    """Where the longest sequence of a batch changes the others' rotary angles, each runs alone."""
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 4,
        "long_factor": [4.0] * 4,
        "original_max_position_embeddings": 18,
    }
    folder = tiny_model("llama", rope_parameters=rope)
    lm = load(folder)
    assert lm.runs_alone
    facts: dict[str, Any] = {}
    assert_plain(folder, lm, random_trees(), facts=facts)
    assert len(facts["batch_sizes"]) == 6


def test_the_prompt_is_computed_once(tiny_model: Make) -> None:
    """The forward passes cover the unique tokens and no more: 6 + 5 + 3 + 5, 9 + 1 + 4 + 9, and 3 + 6."""
    facts: dict[str, Any] = {}
    captured(load(tiny_model()), random_trees(), facts=facts)
    assert facts == {
        "path": "tree",
        "batch_tokens": 4096,
        "batch_sizes": [51],
        "halvings": 0,
        "rejected": [],
    }


def test_batches_have_few_shapes(tiny_model: Make) -> None:
    """105 tokens run as 128, and 5 kept ones through the last block as 64, with the same results."""
    ids = np.resize(np.arange(256, dtype=np.uint32), 105)
    folder = tiny_model()
    lm, run = load(folder), []
    for part in (lm.blocks[0], lm.blocks[-1].mlp):
        part.register_forward_hook(lambda _part, given, _output: run.append(given[0].shape[1]))
    assert_plain(folder, lm, [Tree(ids[:100], (ids[100:],))])
    assert run == [128, 64]


@pytest.mark.parametrize("supports_tree", [True, False])
def test_row_63_results_do_not_depend_on_company(
    supports_tree: bool, tiny_model: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batch size, order and company change nothing beyond 1e-4 in float32."""
    lm = load(tiny_model())
    monkeypatch.setattr(lm, "supports_tree", supports_tree)
    trees = random_trees()
    alone = {
        (t, r, layer): x
        for t, tree in enumerate(trees)
        for r, response in enumerate(tree.responses)
        for (_, _, layer), x in captured(lm, [Tree(tree.prompt_ids, (response,))]).items()
    }
    for budget in (1, 20, 30, 4096):
        together = captured(lm, trees, batch_tokens=budget)
        backwards = captured(lm, trees[::-1], batch_tokens=budget)
        assert together.keys() == alone.keys()
        for (t, r, layer), expected in alone.items():
            for residuals in (together[t, r, layer], backwards[len(trees) - 1 - t, r, layer]):
                assert (residuals - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_deterministic_is_equal_to_the_bit(tiny_model: Make) -> None:
    """With `deterministic`, a response's vectors are the same bits whatever stands beside it."""
    lm = load(tiny_model(), dtype="bfloat16")
    trees = random_trees()
    together = captured(lm, trees, deterministic=True)
    for t, tree in enumerate(trees):
        for r, response in enumerate(tree.responses):
            for (_, _, layer), x in captured(
                lm, [Tree(tree.prompt_ids, (response,))], deterministic=True
            ).items():
                assert torch.equal(together[t, r, layer], x)


def test_bfloat16_is_close(tiny_model: Make) -> None:
    """In bfloat16 residuals come in that type and differ from float32 by rounding."""
    trees = random_trees()
    exact, rounded = (captured(load(tiny_model(), dtype=dtype), trees) for dtype in ("float32", "bfloat16"))
    for key, expected in exact.items():
        assert rounded[key].dtype == torch.bfloat16
        assert (rounded[key].float() - expected).norm() <= 0.05 * expected.norm()


def test_all_layers_alone_or_together(tiny_model: Make) -> None:
    """A layer's residuals are the same whether higher layers are captured too or it is the last."""
    trees = random_trees()
    together = captured(load(tiny_model(), layers=[0, 1, 2, 3]), trees)
    for layer in range(4):
        for (t, r, _), x in captured(load(tiny_model(), layers=[layer]), trees).items():
            torch.testing.assert_close(x, together[t, r, layer], rtol=1e-5, atol=1e-5)


def test_threads_take_turns(tiny_model: Make) -> None:
    """Two threads that share a model get what one gets."""
    from concurrent.futures import ThreadPoolExecutor

    lm, plain = load(tiny_model()), load(tiny_model())
    plain.supports_tree = False
    work = [random_trees(seed) for seed in range(6)]
    with ThreadPoolExecutor(2) as pool_of_threads:
        together = list(pool_of_threads.map(lambda trees: captured(lm, trees), work))
    for trees, residuals in zip(work, together, strict=True):
        for key, expected in captured(plain, trees).items():
            torch.testing.assert_close(residuals[key], expected, rtol=1e-4, atol=1e-4)


def test_no_prompt_at_all(tiny_model: Make) -> None:
    """A response without a prompt is a sequence like any other."""
    tree = Tree(np.zeros(0, np.uint32), (np.arange(5, dtype=np.uint32),))
    assert_plain(tiny_model(), load(tiny_model()), [tree])


def test_nothing_to_do(tiny_model: Make) -> None:
    """No trees give no results."""
    assert captured(load(tiny_model()), []) == {}


def test_row_26_the_pad_id_is_a_token_like_any_other(
    tiny_model: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lengths come from the tokens, so that ids 0 and end-of-text inside a response count on both paths."""
    ids = np.array([0, 257, 0, 257, 0], np.uint32)
    tree = Tree(ids[:3], (ids, ids[::2]))
    for supports_tree in (True, False):
        lm = load(tiny_model())
        monkeypatch.setattr(lm, "supports_tree", supports_tree)
        assert_plain(tiny_model(), lm, [tree])


def test_row_27_padding_side(tiny_model: Make) -> None:
    """Rows padded on the left by transformers give the same vectors as ours."""
    trees, whole = random_trees(), whole_model(tiny_model())
    taken = captured(load(tiny_model()), trees)
    rows = [
        (t, r, torch.from_numpy(np.concatenate([tree.prompt_ids, response]).astype(np.int64)))
        for t, tree in enumerate(trees)
        for r, response in enumerate(tree.responses)
    ]
    longest = max(len(row) for _, _, row in rows)
    ids = torch.stack([torch.nn.functional.pad(row, (longest - len(row), 0)) for _, _, row in rows])
    mask = torch.stack([(torch.arange(longest) >= longest - len(row)).long() for _, _, row in rows])
    with torch.inference_mode():
        states = whole(
            ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            output_hidden_states=True,
        ).hidden_states[3]
    for number, (t, r, _) in enumerate(rows):
        expected = states[number, -len(trees[t].responses[r]) :]
        torch.testing.assert_close(taken[t, r, 2], expected, rtol=1e-4, atol=1e-4)


def test_row_31_values_that_are_not_finite(tiny_model: Make) -> None:
    """A NaN in the weights is an error that names prompt, response and block, or rejects the response."""
    folder = tiny_model()
    lm = load(folder)
    trees = random_trees()
    poison = int(trees[1].responses[2][0])
    with torch.no_grad():
        lm.backbone.embed_tokens.weight[poison] = torch.nan
    with pytest.raises(IncompatibleError) as caught:
        captured(lm, trees)
    assert str(caught.value) == (
        f"{folder}, prompt 1, response 2, block 0: expected finite residuals, found NaN or infinity; "
        "check the model's weights, or try --dtype float32"
    )
    facts: dict[str, Any] = {}
    taken = captured(lm, trees, on_nonfinite="reject", facts=facts)
    assert len(taken) == 5 * 2
    assert facts["rejected"] == [(1, 2, "residuals after block 0 are not finite")]


class Cramped:
    """A forward pass that runs out of memory above some number of tokens."""

    def __init__(self, forward: Callable[..., Any], most: int, error: Exception) -> None:
        self.forward, self.most, self.error = forward, most, error

    def __call__(self, trie: Any) -> Any:
        """Run, or run out of memory."""
        if len(trie.ids) > self.most:
            raise self.error
        return self.forward(trie)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_row_52_out_of_memory_halves_the_batch(
    error: Exception, tiny_model: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The budget halves until a batch fits; what does not fit alone is rejected by name."""
    lm = load(tiny_model())
    trees = random_trees()
    expected = captured(lm, trees)
    monkeypatch.setattr(lm, "forward_trie", Cramped(lm.forward_trie, 23, error))
    facts: dict[str, Any] = {}
    taken = captured(lm, trees, batch_tokens=64, facts=facts)
    assert facts["rejected"] == [(1, 2, "24 tokens do not fit in memory")]
    assert facts["halvings"] == 2
    assert facts["batch_tokens"] == 16
    assert taken.keys() == {key for key in expected if key[:2] != (1, 2)}
    for key, residuals in taken.items():
        torch.testing.assert_close(residuals, expected[key], rtol=1e-4, atol=1e-4)


def test_another_failure_is_not_taken_for_lack_of_memory(
    tiny_model: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any other runtime error comes through."""
    lm = load(tiny_model())
    monkeypatch.setattr(lm, "forward_trie", Cramped(lm.forward_trie, 0, RuntimeError("shapes differ")))
    with pytest.raises(RuntimeError, match="shapes differ"):
        captured(lm, random_trees())


def test_pool() -> None:
    """The last row and the mean of the rows, the mean accumulated in float32."""
    last, mean = pool(torch.tensor([[1.0, 2.0], [3.0, 6.0]], dtype=torch.bfloat16))
    assert last.tolist() == [3.0, 6.0]
    assert mean.tolist() == [2.0, 4.0]
    assert last.dtype == mean.dtype == torch.float32
    # In bfloat16 adding 1 to 256 changes nothing: the sum would stop there.
    many = torch.ones(1000, 1, dtype=torch.bfloat16)
    assert pool(many)[1].item() == 1.0


def test_batch_tokens_on_a_cpu(tiny_model: Make) -> None:
    """Without a GPU the budget is a fixed number of tokens."""
    assert default_batch_tokens(load(tiny_model())) == 4096
