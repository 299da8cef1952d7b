"""Attention over a trie of tokens, as a function that transformers calls in place of its own.

All tokens of a batch stand in one row without padding, so every other part of a block (norms, projections,
MLP) runs on exactly the tokens there are. Only attention has to know which token sees which.

Axes: heads, groups (key-value heads), tokens, q (queries: all heads of a group, one after another), k (keys),
d (width of a head).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from sparserm_cli.models.prompt_cache import KeysValues, Known
from sparserm_cli.models.tree import Trie, cut_blocks, visible

NAME = "sparserm_trie"
"""What the function is called in transformers' table of attention functions."""

HARMLESS = {"position_ids", "cache_position"}
"""Tensors that attention functions are handed and have no use for."""

KEY_MULTIPLE = 32
"""Keys of a block are filled up to a multiple of this, with hidden ones: row lengths that kernels like."""


class Block(NamedTuple):
    """Some consecutive queries and the keys that any of them sees.

    Fields:
        start: first query.
        stop: one past the last query.
        keys: which tokens are keys.
        bias: 0 where a query sees a key, else minus infinity.
    """

    start: int
    stop: int
    keys: Int64[Tensor, " k"]
    bias: Float[Tensor, "q k"]


class KeysTaken(Exception):  # noqa: N818
    """Carries keys and values out of a model block that runs for nothing else."""

    def __init__(self, taken: KeysValues) -> None:
        self.taken = taken
        super().__init__("keys and values taken")


class TrieUnsupportedError(Exception):
    """An architecture hands its attention something that a trie has no place for."""


class Layout:
    """Which token sees which in one batch, in a form made once and used by every block of the model.

    Args:
        trie: the tokens of the batch.
        dtype: the model's.
        device: the model's.
        cuts: where the queries are cut into blocks; None finds the best.
        known: keys and values that need not be computed; these tokens are no queries.

    Attributes:
        queries: the tokens that run through the model, ascending.
        seen: keys and values of all tokens, by model block, if they are to be collected.

    """

    def __init__(
        self,
        trie: Trie,
        dtype: torch.dtype,
        device: str,
        cuts: list[int] | None = None,
        known: Known | None = None,
    ) -> None:
        self.trie, self.dtype, self.device, self.known = trie, dtype, device, known
        self.seen: dict[int, KeysValues] | None = None
        longest, call = (1024, 1 << 16) if self.fused else (128, 1 << 12)
        self.cuts = cuts or cut_blocks(trie, longest, call)
        everything = np.arange(len(trie.ids))
        self.queries = everything if known is None else np.setdiff1d(everything, known.tokens)
        self._blocks: dict[tuple[int | None, int], list[Block]] = {}

    @property
    def fused(self) -> bool:
        """Whether blocks are large and attention runs in one kernel, as suits a GPU."""
        return torch.device(self.device).type == "cuda"

    def join(self, block: int, key: Tensor, value: Tensor) -> KeysValues:
        """Return keys and values of all tokens of the trie, given those that a model block has computed."""
        found = self._all(block, [(self.queries, KeysValues(key, value))])
        if self.seen is not None:
            self.seen[block] = found
        return found

    def _all(self, block: int, parts: list[tuple[Int64[np.ndarray, " _"], KeysValues]]) -> KeysValues:
        """Put computed and known keys and values into the trie's order."""
        if self.known is not None:
            parts = [*parts, (self.known.tokens, self.known.blocks[block])]
        if len(parts) == 1:
            return parts[0][1]
        places = [send(tokens, self.device) for tokens, _ in parts]
        keys, values = zip(*(one for _, one in parts), strict=True)
        return KeysValues(_merged(places, keys), _merged(places, values))

    def blocks(self, window: int | None, repeats: int) -> list[Block]:
        """Return the blocks of queries.

        Args:
            window: width of a sliding window in positions; None is full attention.
            repeats: query heads that share keys and values; each block's bias is repeated as often.

        """
        if (window, repeats) not in self._blocks:
            self._blocks[window, repeats] = self._build(window, repeats)
        return self._blocks[window, repeats]

    def _build(self, window: int | None, repeats: int) -> list[Block]:
        blocks = []
        for low, high in zip(self.cuts, self.cuts[1:], strict=False):
            start, stop = np.searchsorted(self.queries, (low, high)).tolist()
            if start == stop:
                continue
            keys = np.flatnonzero(self.trie.ends[:high] > low)
            seen = visible(self.trie, self.queries[start:stop], keys, window)
            fill = -len(keys) % KEY_MULTIPLE
            hidden = send(np.pad(~seen, ((0, 0), (0, fill)), constant_values=True), self.device)
            bias = torch.zeros(hidden.shape, dtype=self.dtype, device=self.device)
            bias = bias.masked_fill_(hidden, -torch.inf).repeat(repeats, 1)
            blocks.append(Block(start, stop, send(np.pad(keys, (0, fill)), self.device), bias))
        return blocks


class KeysLayout(Layout):
    """For tokens of which nothing but keys and values is needed: stops the block when it has them."""

    def join(self, block: int, key: Tensor, value: Tensor) -> KeysValues:
        """Carry keys and values out.

        Raises:
            KeysTaken: always.

        """
        raise KeysTaken(KeysValues(key, value))


class KeptLayout(Layout):
    """For the kept tokens alone, given the keys and values of the others.

    Args:
        whole: layout of all tokens.
        others: the tokens that run and are not kept.
        taken: their keys and values.

    """

    def __init__(self, whole: Layout, others: Int64[np.ndarray, " others"], taken: KeysValues) -> None:
        super().__init__(whole.trie, whole.dtype, whole.device, whole.cuts, whole.known)
        self.queries, self._others, self._taken, self.seen = whole.trie.kept, others, taken, whole.seen

    def _all(self, block: int, parts: list[tuple[Int64[np.ndarray, " _"], KeysValues]]) -> KeysValues:
        """Put the keys and values of the other tokens in as well."""
        return super()._all(block, [*parts, (self._others, self._taken)])


def trie_attention(
    module: nn.Module,
    query: Float[Tensor, "1 heads queries d"],
    key: Float[Tensor, "1 groups queries d"],
    value: Float[Tensor, "1 groups queries d_value"],
    attention_mask: Tensor | None = None,
    *,
    layout: Layout,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[Float[Tensor, "1 queries heads d_value"], None]:
    """Let every token attend to its ancestors in the trie and itself.

    transformers calls this with one block's projections; `layout` comes from the caller of the model.

    Raises:
        TrieUnsupportedError: it is given a mask, or a tensor (position bias, sinks, ...) unknown here.

    """
    unknown = [name for name, given in others.items() if isinstance(given, Tensor) and name not in HARMLESS]
    if attention_mask is not None or unknown:
        raise TrieUnsupportedError(f"its attention takes {', '.join(unknown) or 'a mask'}")
    key, value = layout.join(getattr(module, "layer_idx", 0), key, value)
    heads, queries, width = query.shape[1:]
    groups = key.shape[1]
    scale = width**-0.5 if scaling is None else scaling
    output = query.new_empty(1, queries, heads, value.shape[-1])
    for start, stop, keys, bias in layout.blocks(sliding_window, heads // groups):
        q = query[0, :, start:stop].reshape(groups, -1, width)
        mixed = _attend(q, key[0, :, keys], value[0, :, keys], bias, scale, softcap, fused=layout.fused)
        output[0, start:stop] = mixed.view(heads, stop - start, -1).transpose(0, 1)
    return output, None


def _merged(
    places: Sequence[Int64[Tensor, " _"]], parts: Sequence[Float[Tensor, "1 groups _ d"]]
) -> Float[Tensor, "1 groups tokens d"]:
    """Put parts where they belong; together they are everything."""
    total = sum(len(place) for place in places)
    whole = parts[0].new_empty(*parts[0].shape[:2], total, parts[0].shape[-1])
    for place, part in zip(places, parts, strict=True):
        whole[:, :, place] = part
    return whole


def _attend(
    q: Float[Tensor, "groups q d"],
    k: Float[Tensor, "groups k d"],
    v: Float[Tensor, "groups k d_value"],
    bias: Float[Tensor, "q k"],
    scale: float,
    softcap: float | None,
    *,
    fused: bool,
) -> Float[Tensor, "groups q d_value"]:
    """Attend within one block; on a CPU plain products beat the fused kernel on blocks this small."""
    if fused and softcap is None:
        return nn.functional.scaled_dot_product_attention(q[None], k[None], v[None], bias, scale=scale)[0]
    if softcap is None:
        scores = torch.baddbmm(bias.expand(len(q), -1, -1), q, k.transpose(1, 2), alpha=scale)
    else:
        scores = torch.bmm(q, k.transpose(1, 2)).mul_(scale / softcap).tanh_().mul_(softcap).add_(bias)
    return torch.bmm(torch.softmax(scores, dim=-1), v)


def register() -> None:
    """Make `trie_attention` known to transformers under `NAME`."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, trie_attention)


def send(array: np.ndarray, device: str) -> Tensor:
    """Copy an array to the device, without waiting for the copy where the device allows."""
    tensor = torch.from_numpy(array)
    return (
        tensor.pin_memory().to(device, non_blocking=True) if torch.device(device).type == "cuda" else tensor
    )
