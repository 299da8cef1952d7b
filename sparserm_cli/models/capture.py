"""Residual vectors of response tokens: every prompt computed once for all its responses where the model allows."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt32
from torch import Tensor

from sparserm_cli.models.lm import LanguageModel
from sparserm_cli.models.tree import Tree

Captured = tuple[int, int, dict[int, Float[Tensor, "t d_in"]]]


class Sequence_(NamedTuple):
    """One prompt with one response."""

    tree: int
    response: int
    ids: UInt32[np.ndarray, " seq"]
    keep: int


def capture(
    lm: LanguageModel,
    trees: Sequence[Tree],
    *,
    batch_tokens: int = 4096,
    deterministic: bool = False,
    facts: dict[str, Any] | None = None,
) -> Iterator[Captured]:
    """Yield the residual stream at each response's tokens, trees in any order.

    Args:
        lm: the loaded model.
        trees: prompts with their responses.
        batch_tokens: most tokens in one forward pass.
        deterministic: compute each response alone, so that results are equal to the bit in any company.
        facts: filled with what happened.

    Yields:
        (tree index, response index, {layer: residuals (response tokens, d_in) in `lm.dtype` on `lm.device`}).

    """
    rows = [
        Sequence_(t, r, np.concatenate([tree.prompt_ids, response]), len(response))
        for t, tree in enumerate(trees)
        for r, response in enumerate(tree.responses)
    ]
    rows.sort(key=lambda row: len(row.ids))
    batch: list[Sequence_] = []
    for row in rows:
        if batch and (deterministic or (len(batch) + 1) * len(row.ids) > batch_tokens):
            yield from _plain(lm, batch)
            batch = []
        batch.append(row)
    if batch:
        yield from _plain(lm, batch)


def pool(
    residuals: Float[Tensor, "t d_in"],
) -> tuple[Float32[Tensor, " d_in"], Float32[Tensor, " d_in"]]:
    """Return the last token's vector and the mean over tokens, both float32; the mean accumulates in float32."""
    return residuals[-1].float(), residuals.mean(dim=0, dtype=torch.float32)


def _plain(lm: LanguageModel, batch: Sequence[Sequence_]) -> Iterator[Captured]:
    longest = max(len(row.ids) for row in batch)
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for number, row in enumerate(batch):
        ids[number, : len(row.ids)] = torch.from_numpy(row.ids.astype(np.int64))
        mask[number, : len(row.ids)] = 1
    taken = lm.forward_rows(ids.to(lm.device), mask.to(lm.device))
    for number, row in enumerate(batch):
        end = len(row.ids)
        yield row.tree, row.response, {layer: x[number, end - row.keep : end] for layer, x in taken.items()}
