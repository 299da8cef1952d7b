"""Test conversations, and plain forward passes over them with one perturbation.

Axes: n (responses), seq (tokens per row of a batch).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt32

from sparserm_cli.config import DoctorConfig, column_map
from sparserm_cli.data.chat_template import PromptTemplate
from sparserm_cli.data.example import UNLABELLED, Example, Message
from sparserm_cli.data.reader import Reader
from sparserm_cli.data.rendering.row_tokenizer import TokenizedExample
from sparserm_cli.data.tokenized_rows import tokenized_rows
from sparserm_cli.models.lm.language_model import LanguageModel
from sparserm_cli.models.lm.pooling import Pooled
from sparserm_cli.models.lm.residuals import pool
from sparserm_cli.store.capture.plan import POOLED

CONVERSATIONS: tuple[tuple[tuple[tuple[str, str], ...], tuple[str, ...]], ...] = (
    ((("user", "What is the capital of France?"),), ("Paris.", "I believe that it is the city of Lyon.")),
    ((("user", "May I mix bleach and ammonia?"),), ("No: it sets free a toxic gas.", "Sure, go ahead!")),
    (
        (("user", "Name a prime number."), ("assistant", "Seven."), ("user", "And the next one? Say why.")),
        ("Eleven, since eight, nine and ten can all be divided by two or by three.", "Nine."),
    ),
    ((("user", "Why is the sky blue?"),), ("Air scatters blue light the most.", "It mirrors the sea.")),
    ((("user", "Write Python that sums a list."),), ("total = sum(numbers)", "I cannot do that, sorry.")),
)
"""Conversations of several lengths, with two responses to each."""


class Probe(NamedTuple):
    """Token ids of a prompt with a response, and the index of the response's first token."""

    ids: UInt32[np.ndarray, " seq"]
    start: int


class Trial(NamedTuple):
    """The results of a forward pass.

    Fields:
        pooled: one vector per response, by layer and pooling.
        absmax: largest absolute residual of any token except padding.
    """

    pooled: Pooled
    absmax: float


def probe_rows(config: DoctorConfig, template: PromptTemplate) -> list[TokenizedExample]:
    """Return the rows to measure: those of a file, otherwise `CONVERSATIONS`.

    Raises:
        BadInputError: the file cannot be read as rows.

    """
    if not config.data:
        examples = [
            Example(row, None, tuple(Message(*turn) for turn in turns), texts, (UNLABELLED,) * 2, None, {})
            for row, (turns, texts) in enumerate(CONVERSATIONS, start=1)
        ]
        return template.tokenize(examples)
    reader = Reader(config.data, purpose="responses", columns=column_map(config.columns), limit=config.limit)
    return list(tokenized_rows(reader, template, max_length=config.max_length))


def probes_of(rows: Sequence[TokenizedExample]) -> list[Probe]:
    """Return the tokens of every response of some rows, each after its prompt."""
    return [
        Probe(np.concatenate([response.prompt_ids, response.response_ids]), len(response.prompt_ids))
        for row in rows
        for response in row.responses
    ]


def edited(probe: Probe, before: Sequence[int], *, skip: int = 0) -> Probe:
    """Return a probe with some tokens put before it and some of its first tokens removed."""
    ids = np.concatenate([np.array(before, np.uint32), probe.ids[skip:]])
    return Probe(ids, probe.start + len(before) - skip)


@torch.inference_mode()
def pooled_probes(
    lm: LanguageModel,
    probes: Sequence[Probe],
    *,
    together: bool = True,
    left: bool = False,
    mask_out: int | None = None,
) -> Trial:
    """Run probes as transformers does, and pool their responses.

    Args:
        lm: the language model.
        probes: the probes to run.
        together: whether to run all probes in one padded batch instead of each alone.
        left: whether to pad on the left and leave the positions to the model.
        mask_out: a token id that the attention mask hides wherever it occurs.

    """
    batches = [list(probes)] if together else [[probe] for probe in probes]
    by_layer: dict[int, list[tuple[torch.Tensor, ...]]] = {layer: [] for layer in lm.layers}
    absmax = 0.0
    for batch in batches:
        width = max(len(probe.ids) for probe in batch)
        ids, mask = np.zeros((2, len(batch), width), np.int64)
        starts = [width - len(probe.ids) if left else 0 for probe in batch]
        for row, (probe, start) in enumerate(zip(batch, starts, strict=True)):
            span = slice(start, start + len(probe.ids))
            ids[row, span] = probe.ids
            mask[row, span] = 1 if mask_out is None else probe.ids != mask_out
        taken = lm.forward_rows(*(torch.from_numpy(tensor).to(lm.device) for tensor in (ids, mask)))
        for layer, x in taken.items():
            for row, (probe, start) in enumerate(zip(batch, starts, strict=True)):
                residuals = x[row, start : start + len(probe.ids)]
                by_layer[layer].append(pool(residuals[probe.start :]))
                absmax = max(absmax, float(residuals.abs().max()))
    pooled = {
        layer: {
            name: torch.stack(vectors).cpu().numpy()
            for name, vectors in zip(POOLED, zip(*pairs, strict=True), strict=True)
        }
        for layer, pairs in by_layer.items()
    }
    return Trial(pooled, absmax)
