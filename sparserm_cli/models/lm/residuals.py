"""Residual vectors of response tokens; where possible, a prompt is computed once for all its responses.

Memory: one batch of at most `batch_tokens` tokens at a time, whatever the number of trees or responses.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from sparserm_cli.errors import IncompatibleError
from sparserm_cli.models.checkpoints.config_shape import check_ids
from sparserm_cli.models.lm.language_model import LanguageModel
from sparserm_cli.models.lm.trie import Row, Tree, build_trie, sort_rows
from sparserm_cli.models.lm.trie_attention import send

Residuals = dict[int, Float[Tensor, "t d_in"]]
"""Mapping from layer to the residual stream at the tokens of a response."""

CPU_TOKENS = 4096
"""Number of tokens per batch on a CPU; it suffices for fast matrix products and fits into memory."""


def iter_residuals(
    lm: LanguageModel,
    trees: Sequence[Tree],
    *,
    batch_tokens: int | None = None,
    deterministic: bool = False,
    on_nonfinite: Literal["error", "reject"] = "error",
    facts: dict[str, Any] | None = None,
) -> Iterator[tuple[int, int, Residuals]]:
    """Yield the residual stream at each response's tokens.

    Results do not depend on what else is in `trees`, on its order or on `batch_tokens`, up to rounding (1e-4
    in float32). Where memory does not suffice, batches are halved, down to one response; if
    even that does not fit, it is left out and named in `facts`.

    Args:
        lm: the loaded model.
        trees: prompts with their responses.
        batch_tokens: most tokens in one forward pass, padding included; None chooses by the machine.
        deterministic: run each response alone, so that no bit of its vectors depends on other responses.
        on_nonfinite: what to do with a response whose residuals hold NaN or infinity.
        facts: receives `path` (tree or plain), `batch_tokens` (the last value), `batch_sizes` (tokens of each
            forward pass, padding included), `halvings`, and `rejected` (tree, response, reason).

    Yields:
        (tree index, response index, {layer: residuals (response tokens, d_in) in `lm.dtype` on the CPU}),
        in any order.

    Raises:
        IncompatibleError: residuals are not finite and `on_nonfinite` is `error`, or a token id is not one of
            the model's.

    """
    facts = {} if facts is None else facts
    facts |= {
        "path": "tree" if lm.supports_tree else "plain",
        "batch_sizes": [],
        "halvings": 0,
        "rejected": [],
    }
    facts["batch_tokens"] = batch_tokens or default_batch_tokens(lm)
    rows, shared = _in_order(lm, trees)
    start = 0
    while start < len(rows):
        stop = (
            start + 1
            if deterministic or lm.runs_alone
            else _fill(lm, rows, shared, start, facts["batch_tokens"])
        )
        results = _attempt(lm, rows[start:stop], shared[start:stop], facts)
        if results is None and stop - start > 1:
            facts["batch_tokens"] = max(1, facts["batch_tokens"] // 2)
            facts["halvings"] += 1
            continue
        if results is None:
            _reject(facts, rows[start], f"{len(rows[start].ids)} tokens do not fit in memory")
        for row, residuals in zip(rows[start:stop], results or (), strict=False):
            checked = _finite(lm, row, residuals, on_nonfinite, facts)
            if checked is not None:
                yield row.tree, row.response, checked
        start = stop


def pool(residuals: Float[Tensor, "t d_in"]) -> tuple[Float32[Tensor, " d_in"], Float32[Tensor, " d_in"]]:
    """Return the vector of the last token and the mean over tokens, both computed in float32."""
    return residuals[-1].float(), residuals.mean(dim=0, dtype=torch.float32)


def default_batch_tokens(lm: LanguageModel) -> int:
    """Choose the number of tokens per batch: a fixed number on a CPU, by free memory on a GPU."""
    if torch.device(lm.device).type != "cuda":
        return CPU_TOKENS
    free, _ = torch.cuda.mem_get_info(lm.device)
    widest = max(parameter.shape[0] for name, parameter in lm.blocks.named_parameters() if parameter.ndim > 1)
    return int(min(max(free // (64 * (lm.d_in + widest)), 512), 65536))


def _in_order(lm: LanguageModel, trees: Sequence[Tree]) -> tuple[list[Row], Int64[np.ndarray, " n"]]:
    """Sort rows by their beginnings for tries, and by length for padded batches."""
    rows = [
        Row(number, response, np.concatenate([tree.prompt_ids, ids]), len(ids))
        for number, tree in enumerate(trees)
        for response, ids in enumerate(tree.responses)
    ]
    for row in rows:
        check_ids(lm.identity.name, row.ids, lm.vocabulary)
    if lm.supports_tree:
        return sort_rows(rows)
    rows.sort(key=lambda row: len(row.ids), reverse=True)
    return rows, np.zeros(len(rows), np.int64)


def _fill(
    lm: LanguageModel, rows: Sequence[Row], shared: Int64[np.ndarray, " n"], start: int, budget: int
) -> int:
    """Return the end of the batch that begins at `start`, of at least one row and at most `budget` tokens."""
    first = tokens = len(rows[start].ids)
    for stop in range(start + 1, len(rows)):
        tokens += len(rows[stop].ids) - int(shared[stop]) if lm.supports_tree else first
        if tokens > budget:
            return stop
    return len(rows)


def _attempt(
    lm: LanguageModel, rows: Sequence[Row], shared: Int64[np.ndarray, " n"], facts: dict[str, Any]
) -> list[Residuals] | None:
    """Run one batch; return None if memory does not suffice."""
    run = _run_trie if lm.supports_tree else _run_plain
    try:
        results, tokens = run(lm, rows, shared)
    # CUDA raises a subclass, OutOfMemoryError; the CPU allocator raises RuntimeError itself
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "DefaultCPUAllocator" not in str(error):
            raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return None
    facts["batch_sizes"].append(tokens)
    return results


def _run_trie(
    lm: LanguageModel, rows: Sequence[Row], shared: Int64[np.ndarray, " n"]
) -> tuple[list[Residuals], int]:
    trie = build_trie(rows, shared)
    taken = _fetched(lm.forward_trie(trie))
    places = [torch.from_numpy(place) for place in trie.rows]
    return [{layer: x[place] for layer, x in taken.items()} for place in places], len(trie.ids)


def _run_plain(
    lm: LanguageModel, rows: Sequence[Row], _shared: Int64[np.ndarray, " n"]
) -> tuple[list[Residuals], int]:
    lengths = np.array([len(row.ids) for row in rows])
    mask = np.arange(lengths.max()) < lengths[:, None]
    ids = np.zeros(mask.shape, np.int64)
    ids[mask] = np.concatenate([row.ids for row in rows])
    taken = _fetched(lm.forward_rows(send(ids, lm.device), send(mask.astype(np.int64), lm.device)))
    spans = [slice(len(row.ids) - row.keep, len(row.ids)) for row in rows]
    return [{layer: x[n, span] for layer, x in taken.items()} for n, span in enumerate(spans)], ids.size


def _fetched(taken: dict[int, Tensor]) -> dict[int, Tensor]:
    """Copy a batch's residuals to the CPU with one copy per layer, since each copy waits for the device."""
    return {layer: x.cpu() for layer, x in taken.items()}


def _finite(
    lm: LanguageModel, row: Row, residuals: Residuals, on_nonfinite: str, facts: dict[str, Any]
) -> Residuals | None:
    """Return finite residuals; a response whose residuals are not finite is computed again alone.

    A NaN spreads over its batch, since zero times NaN is NaN, so only a run of the response alone shows
    whether the NaN is its own.
    """
    if all(torch.isfinite(x).all() for x in residuals.values()):
        return residuals
    alone = (_attempt(lm, [row], np.zeros(1, np.int64), facts) or [residuals])[0]
    bad = [layer for layer, x in alone.items() if not torch.isfinite(x).all()]
    if not bad:
        return alone
    if on_nonfinite == "reject":
        _reject(facts, row, f"residuals after block {bad[0]} are not finite")
        return None
    where = f"{lm.identity.name}, prompt {row.tree}, response {row.response}, block {bad[0]}"
    hint = "check the model's weights, or try --dtype float32"
    raise IncompatibleError(where, "finite residuals", "NaN or infinity", hint)


def _reject(facts: dict[str, Any], row: Row, reason: str) -> None:
    facts["rejected"].append((row.tree, row.response, reason))
