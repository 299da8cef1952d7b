"""Prompts kept for later responses: the same vectors as without, fewer tokens, bounded memory."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sparserm_cli.models.checkpoints.resolve import resolve_model
from sparserm_cli.models.lm import trie_attention as attention
from sparserm_cli.models.lm.language_model import LanguageModel
from sparserm_cli.models.lm.prompt_cache import PromptCache
from sparserm_cli.models.lm.residuals import iter_residuals
from sparserm_cli.models.lm.trie import Tree

ARCHITECTURES = ("llama", "gemma2", "gemma3", "qwen3", "gpt2", "gpt_neox", "mistral", "phi")
Make = Callable[..., Path]


def ids(*numbers: int) -> np.ndarray:
    """Give token ids."""
    return np.array(numbers, np.uint32)


SYSTEM = ids(*range(20, 28))
PROMPTS = [np.concatenate([SYSTEM, ids(1, 2, 3)]), np.concatenate([SYSTEM, ids(4)]), ids(9, 8)]
ASKED: list[list[Tree]] = [
    # A prompt, a later response to it, a prompt that begins alike, both with something new, a prompt whose
    # responses are the tokens of a known one.
    [Tree(PROMPTS[0], (ids(5, 6), ids(5, 7, 7)))],
    [Tree(PROMPTS[0], (ids(5, 8, 9),))],
    [Tree(PROMPTS[1], (ids(6),))],
    [Tree(PROMPTS[0], (ids(3),)), Tree(PROMPTS[1], (ids(2), ids(1))), Tree(PROMPTS[2], (ids(4, 4),))],
    [Tree(SYSTEM, (ids(1, 2, 3, 9), ids(1, 2))), Tree(PROMPTS[0], (ids(2),))],
    [Tree(PROMPTS[2], (ids(1),)), Tree(PROMPTS[0], (ids(0),))],
]


def load(folder: Path, most_bytes: int | None = 1 << 20, layers: Sequence[int] = (0, 2)) -> LanguageModel:
    """Load a model, with a cache or without."""
    lm = LanguageModel.load(resolve_model(str(folder)), layers=layers, dtype="float32", device="cpu")
    lm.prompt_cache = None if most_bytes is None else PromptCache(most_bytes)
    return lm


@contextmanager
def counted(lm: LanguageModel) -> Iterator[list[int]]:
    """Collect the tokens of each forward pass."""
    lengths: list[int] = []
    handle = lm.blocks[0].register_forward_hook(lambda _m, inputs, _o: lengths.append(inputs[0].shape[1]))
    try:
        yield lengths
    finally:
        handle.remove()


def captured(lm: LanguageModel, trees: Sequence[Tree], **options: Any) -> dict[Any, torch.Tensor]:
    """Return tree, response and layer to residuals."""
    return {
        (t, r, layer): x for t, r, taken in iter_residuals(lm, trees, **options) for layer, x in taken.items()
    }


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_vectors_are_those_without_a_cache(arch: str, tiny_model: Make) -> None:
    """Whatever part of a batch is known."""
    with_cache, without = load(tiny_model(arch)), load(tiny_model(arch), None)
    assert with_cache.supports_tree
    for trees in [*ASKED, *ASKED]:
        expected = captured(without, trees)
        for place, residuals in captured(with_cache, trees).items():
            torch.testing.assert_close(residuals, expected[place], rtol=1e-4, atol=1e-4)


def test_known_prompts_are_not_computed_again(tiny_model: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tokens of each pass, by hand; the two first responses share a token. Nothing is filled up here."""
    monkeypatch.setattr(attention, "QUERIES", 1)
    lm = load(tiny_model("llama"))
    with counted(lm) as tokens:
        for trees in ASKED:
            captured(lm, trees)
    assert tokens == [11 + 4, 3, 9 + 1, 1 + 1 + 1 + 4, 4 + 1, 2]
    assert lm.prompt_cache is not None
    assert lm.prompt_cache.misses == 4
    assert lm.prompt_cache.hits == 6


def test_memory_is_bounded_and_the_oldest_go_first(tiny_model: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three blocks, two key-value heads of width 8, keys and values of 4 bytes: 384 bytes a token."""
    monkeypatch.setattr(attention, "QUERIES", 1)
    lm = load(tiny_model("llama"), 384 * 20)
    cache = lm.prompt_cache
    assert cache is not None
    captured(lm, ASKED[0])
    assert cache.bytes == 384 * 11
    captured(lm, ASKED[2])
    assert cache.bytes == 384 * 20
    captured(lm, ASKED[0])
    captured(lm, [Tree(PROMPTS[2], (ids(4),))])
    assert cache.bytes == 384 * (11 + 2)
    with counted(lm) as tokens:
        captured(lm, ASKED[1])
        captured(lm, ASKED[2])
    assert tokens == [3, 9 + 1]
    captured(lm, [Tree(ids(*range(30)), (ids(4),))])
    assert cache.bytes <= 384 * 20


def test_a_nan_stays_in_its_batch(tiny_model: Make) -> None:
    """A batch that one prompt spoils leaves nothing behind."""
    lm = load(tiny_model("llama", seed=7))
    weights = lm.backbone.get_input_embeddings().weight
    before = weights.detach().clone()
    weights[200] = torch.nan
    spoilt = [Tree(PROMPTS[0], (ids(5),)), Tree(ids(200, 1), (ids(5),))]
    facts: dict[str, Any] = {}
    residuals = captured(lm, spoilt, on_nonfinite="reject", facts=facts)
    assert [reject[:2] for reject in facts["rejected"]] == [(1, 0)]
    expected = captured(load(tiny_model("llama", seed=7), None), [ASKED[0][0]._replace(responses=(ids(5),))])
    for layer in (0, 2):
        torch.testing.assert_close(residuals[0, 0, layer], expected[0, 0, layer], rtol=1e-4, atol=1e-4)
    weights.copy_(before)
    for place, vectors in captured(lm, ASKED[1]).items():
        torch.testing.assert_close(
            vectors, captured(load(tiny_model("llama", seed=7), None), ASKED[1])[place]
        )
