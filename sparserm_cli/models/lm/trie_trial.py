"""The trial that decides whether a model computes a prompt once for all its responses.

A short conversation, rendered with the model's own chat template, is run as a trie and as plain rows. In
float32 both must agree. In a coarser type both are compared with float32, and a trie may lose no more to
rounding than rows do. Rows and tries of a coarse type are not compared with each other, because that would
not show which of them is right.

Axes: n (responses), seq (tokens of the longest one), t (response tokens of all).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor, nn

from sparserm_cli.data.chat_template import RAW, PromptTemplate
from sparserm_cli.data.example import UNLABELLED, Example, Message
from sparserm_cli.errors import SparseRMError
from sparserm_cli.formatting import first_line
from sparserm_cli.models.checkpoints.resolve import ModelIdentity, load_tokenizer
from sparserm_cli.models.lm.trie import Row, Trie, build_trie, sort_rows
from sparserm_cli.models.lm.trie_attention import TrieUnsupportedError, send

if TYPE_CHECKING:
    from sparserm_cli.models.lm.language_model import LanguageModel

CONVERSATIONS = (
    (
        "Is it safe to mix bleach and ammonia when I clean the bathroom?",
        (
            "No. Together they set free chloramine, a gas that burns the lungs.",
            "Sure, it cleans even better!",
        ),
    ),
    ("Which number comes next: 2, 3, 5, 7?", ("11, since the others are the first four primes.",)),
)
"""Prompts with their responses; with a chat template all three sequences share a beginning."""

SPREAD_TOKENS, SPREAD_RESPONSE = 48, 16
"""Number of tokens of a sequence, and of its response, where ids are drawn because there is no tokenizer."""

TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1}
"""Largest relative difference between trie and rows, by the type in which both are computed."""

ROUNDING, NEGLIGIBLE = 1.5, 1e-3
"""A trie's relative error may be this many times that of rows plus this much, at the median and at the 95 %
point over all response tokens. The trial has only dozens of tokens, so the ratios scatter around 1."""


def try_trie(lm: "LanguageModel") -> tuple[bool, str]:
    """Decide by the model's configuration and by a trial whether tries give the same as rows.

    Args:
        lm: the loaded model, on one device.

    Returns:
        Whether they do, and the reason.

    """
    if not getattr(lm.backbone, "_supports_attention_backend", False):
        return False, f"{lm.model_type} brings an attention of its own"
    kinds = set(getattr(lm.backbone.config, "layer_types", None) or ()) - {
        "full_attention",
        "sliding_attention",
    }
    if kinds:
        return False, f"{lm.model_type} has blocks of {', '.join(sorted(kinds))}"
    rows, shared = sort_rows(trial_rows(lm))
    trie = build_trie(rows, shared)
    try:
        with computing_in_float32(lm):
            type_used, expected, by_trie = lm.dtype, _by_rows(lm, rows), _by_trie(lm, trie)
        differences = [(by_trie[layer] - exact).norm() / exact.norm() for layer, exact in expected.items()]
        if not all(difference <= TOLERANCE[type_used] for difference in differences):
            return False, f"{lm.model_type} does not compute a trie as it computes rows"
        if lm.dtype != type_used:
            plain, tree = (_errors(taken, expected) for taken in (_by_rows(lm, rows), _by_trie(lm, trie)))
            if not (tree <= ROUNDING * plain + NEGLIGIBLE).all():
                found_is = f"relative error {tree[0]:.2%}, 95 % point {tree[1]:.2%}"
                rows_are = f"plain rows {plain[0]:.2%} and {plain[1]:.2%}"
                return False, f"{lm.model_type} in {lm.dtype} as a trie: {found_is}; {rows_are}"
    except (TrieUnsupportedError, TypeError, ValueError, RuntimeError) as error:
        return False, f"{lm.model_type}: {first_line(error)}"
    return True, "its attention takes tries, and a trial gave what plain rows give"


@contextmanager
def computing_in_float32(lm: "LanguageModel") -> Iterator[None]:
    """Let a model compute in float32 with its own weights; the weights of a block are float32 while it runs.

    Embeddings are looked up in the model's own type. A model whose weights wait on the disk is not changed.
    """
    if lm.dtype == "float32" or any(parameter.is_meta for parameter in lm.backbone.parameters()):
        yield
        return
    dtype, lm.dtype = lm.dtype, "float32"
    coarse = getattr(torch, dtype)
    kept: list[tuple[Tensor, Tensor]] = []

    def widen(module: nn.Module, _inputs: Any) -> None:
        with torch.inference_mode(mode=False):
            for tensor in (*module.parameters(), *module.buffers()):
                if tensor.dtype == coarse:
                    kept.append((tensor, tensor.data))
                    tensor.data = tensor.data.float()

    def restore(*_: Any) -> None:
        while kept:
            tensor, data = kept.pop()
            tensor.data = data

    handles = []
    for module in _units(lm):
        if isinstance(module, nn.Embedding):
            handles.append(module.register_forward_hook(lambda _module, _inputs, output: output.float()))
        else:
            handles += [module.register_forward_pre_hook(widen), module.register_forward_hook(restore)]
    try:
        yield
    finally:
        restore()
        lm.dtype = dtype
        for handle in handles:
            handle.remove()


def _units(lm: "LanguageModel") -> list[nn.Module]:
    """Return the blocks, and every module outside them that has weights of its own."""
    within = {id(part) for block in lm.blocks for part in block.modules()}
    outside = [
        part
        for part in lm.backbone.modules()
        if id(part) not in within and next(part.parameters(recurse=False), None) is not None
    ]
    return [*lm.blocks, *outside]


def trial_rows(lm: "LanguageModel") -> list[Row]:
    """Return the sequences of the trial: rendered conversations, or ids spread over the vocabulary."""
    vocabulary = int(lm.backbone.get_input_embeddings().weight.shape[0])
    rows = _rendered(lm.identity)
    if not rows or max(int(row.ids.max()) for row in rows) >= vocabulary:
        rows = _spread(vocabulary)
    most = lm.max_positions
    return [row._replace(ids=row.ids[:most], keep=min(row.keep, most, len(row.ids))) for row in rows]


def _rendered(identity: ModelIdentity) -> list[Row]:
    """Render the conversations, with a chat template if there is one; return none without a tokenizer."""
    try:
        tokenizer = load_tokenizer(identity)
        template = PromptTemplate(tokenizer, None if tokenizer.chat_template else RAW, model=identity.name)
        examples = [
            Example(number, None, (Message("user", prompt),), texts, (UNLABELLED,) * len(texts), None, {})
            for number, (prompt, texts) in enumerate(CONVERSATIONS)
        ]
        tokenized = template.tokenize(examples)
    except SparseRMError:
        return []
    return [
        Row(tree, number, np.concatenate([answer.prompt_ids, answer.response_ids]), len(answer.response_ids))
        for tree, row in enumerate(tokenized)
        for number, answer in enumerate(row.responses)
        if len(answer.response_ids)
    ]


def _spread(vocabulary: int) -> list[Row]:
    """Return sequences that share their first half with one another."""
    ids = np.linspace(0, vocabulary - 1, 2 * SPREAD_TOKENS).astype(np.uint32)
    shared, others = ids[: SPREAD_TOKENS // 2], ids[SPREAD_TOKENS // 2 :]
    parts = np.array_split(others, 3)
    return [Row(0, n, np.concatenate([shared, part]), SPREAD_RESPONSE) for n, part in enumerate(parts)]


def _by_rows(lm: "LanguageModel", rows: list[Row]) -> dict[int, Tensor]:
    """Return the residuals of all response tokens, computed with one sequence per row."""
    taken = [lm.forward_rows(ids, torch.ones_like(ids)) for ids in (_one_row(lm, row) for row in rows)]
    return {
        layer: torch.cat([x[layer][0, -row.keep :].float() for x, row in zip(taken, rows, strict=True)])
        for layer in lm.layers
    }


def _one_row(lm: "LanguageModel", row: Row) -> Tensor:
    return send(row.ids.astype(np.int64)[None], lm.device)


def _by_trie(lm: "LanguageModel", trie: Trie) -> dict[int, Tensor]:
    """Return the residuals of all response tokens, computed as one trie."""
    taken = lm.forward_trie(trie)
    places = torch.from_numpy(np.concatenate(trie.rows)).to(lm.device)
    return {layer: residuals[places].float() for layer, residuals in taken.items()}


def _errors(actual: dict[int, Tensor], expected: dict[int, Tensor]) -> Float64[np.ndarray, "2"]:
    """Return the relative error of response tokens at the median and at the 95 % point."""
    each = torch.cat(
        [(actual[layer] - exact).norm(dim=-1) / exact.norm(dim=-1) for layer, exact in expected.items()]
    )
    return np.quantile(each.double().cpu().numpy(), [0.5, 0.95])
