"""Attention over a trie of tokens, as a function that transformers calls instead of its own.

All tokens of a batch stand in one row, filled up to a multiple of some dozens, so every other part of a block
(norms, projections, MLP) runs on no more tokens than these. Only attention must know which token sees which.

Axes: heads, groups (key-value heads), tokens, q (queries of a block: all heads of a group, in turn), k
(keys of a block), d (width of a head).
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from sparserm_cli.models.lm.prompt_cache import KeysValues, Known
from sparserm_cli.models.lm.trie import Trie, lengthen, visible

NAME = "sparserm_trie"
"""Name of the function in transformers' table of attention functions."""

HARMLESS = {"position_ids", "cache_position"}
"""Tensors that attention functions are given and do not use."""

QUERIES, FUSED_QUERIES = 64, 256
"""Number of queries per block with plain products, and with a fused kernel; batches are filled up.

oneDNN compiles and keeps one kernel per shape of a product, so few shapes save time and memory."""

KEY_MULTIPLE = 32
"""The keys of a block are filled up with hidden keys to a multiple of this number, for the same reason."""


class Blocks(NamedTuple):
    """The queries in blocks of equal size, and the keys that any query of a block sees.

    Fields:
        rows: row numbers of the keys, by block and within it by group; token t of group g has row t x groups
            + g.
        counts: number of these rows in each block.
        biases: bias of each block: 0 where a query sees a key, else minus infinity.
    """

    rows: Int64[Tensor, " _"]
    counts: list[int]
    biases: list[Float[Tensor, "q k"]]


class KeysTaken(Exception):  # noqa: N818
    """Carries keys and values out of a model block that runs only to compute them."""

    def __init__(self, taken: KeysValues) -> None:
        self.taken = taken
        super().__init__("keys and values taken")


class TrieUnsupportedError(Exception):
    """An architecture gives its attention something that a trie cannot represent."""


class Layout:
    """Which token sees which in one batch; made once and used by every block of the model.

    Args:
        trie: the tokens of the batch.
        dtype: number type of the model.
        device: device of the model.
        known: keys and values that need not be computed; their tokens are not run as queries.

    Attributes:
        trie: the tokens of the batch, with those that fill up the queries.
        queries: the tokens that run through the model, ascending; a multiple of `size`.
        size: number of queries per block.
        seen: keys and values of all tokens, by model block, if they are to be collected.

    """

    def __init__(self, trie: Trie, dtype: torch.dtype, device: str, known: Known | None = None) -> None:
        self.dtype, self.device, self.known = dtype, device, known
        self.seen: dict[int, KeysValues] | None = None
        self.size = FUSED_QUERIES if self.fused else QUERIES
        left_out = np.zeros(0, np.int64) if known is None else known.tokens
        self.trie = lengthen(trie, (len(left_out) - len(trie.ids)) % self.size)
        self.queries = np.setdiff1d(np.arange(len(self.trie.ids)), left_out, assume_unique=True)
        self._blocks: dict[tuple[int | None, int, int], Blocks] = {}

    @property
    def fused(self) -> bool:
        """Whether blocks are large and attention runs in one kernel, which is faster on a GPU."""
        return torch.device(self.device).type == "cuda"

    @cached_property
    def last(self) -> Int64[np.ndarray, " last"]:
        """The queries that run through the whole last block: the kept tokens, filled up with others."""
        others = np.setdiff1d(self.queries, self.trie.kept, assume_unique=True)
        return np.union1d(self.trie.kept, others[: -len(self.trie.kept) % self.size])

    def join(self, block: int, key: Tensor, value: Tensor) -> KeysValues:
        """Return the keys and values of all tokens, given those that a model block has computed."""
        outputs = self._all(block, [(self.queries, KeysValues(key, value))])
        if self.seen is not None:
            self.seen[block] = outputs
        return outputs

    def _all(self, block: int, parts: list[tuple[Int64[np.ndarray, " _"], KeysValues]]) -> KeysValues:
        """Put computed and known keys and values into the trie's order."""
        if self.known is not None:
            parts = [*parts, (self.known.tokens, self.known.blocks[block])]
        if len(parts) == 1:
            return parts[0][1]
        places = [send(tokens, self.device) for tokens, _ in parts]
        keys, values = zip(*(keys_values for _, keys_values in parts), strict=True)
        return KeysValues(_merged(places, keys), _merged(places, values))

    def blocks(self, window: int | None, groups: int, repeats: int) -> Blocks:
        """Return the blocks of queries.

        Args:
            window: width of a sliding window in positions; None is full attention.
            groups: number of key-value heads.
            repeats: number of query heads per key-value head; the bias of each block is repeated as often.

        """
        if (window, groups, repeats) not in self._blocks:
            self._blocks[window, groups, repeats] = self._build(window, groups, repeats)
        return self._blocks[window, groups, repeats]

    def _build(self, window: int | None, groups: int, repeats: int) -> Blocks:
        rows, biases = [], []
        # a fused kernel needs the type of its queries
        bias_type = self.dtype if self.fused else torch.float32
        for queries in self.queries.reshape(-1, self.size):
            near = np.flatnonzero(self.trie.ends[: queries[-1] + 1] > queries[0])
            seen = visible(self.trie, queries, near, window)
            used = seen.any(axis=0)
            fill = (0, -int(used.sum()) % KEY_MULTIPLE)
            keys = np.pad(near[used], fill)
            rows.append((keys * groups + np.arange(groups)[:, None]).ravel())
            hidden = send(np.pad(~seen[:, used], ((0, 0), fill), constant_values=True), self.device)
            bias = torch.zeros(hidden.shape, dtype=bias_type, device=self.device)
            biases.append(bias.masked_fill_(hidden, -torch.inf).repeat(repeats, 1))
        return Blocks(send(np.concatenate(rows), self.device), list(map(len, rows)), biases)


class KeysLayout(Layout):
    """A layout that stops the block as soon as the keys and values are computed."""

    def join(self, block: int, key: Tensor, value: Tensor) -> KeysValues:
        """Carry the keys and values out of the block.

        Raises:
            KeysTaken: always.

        """
        raise KeysTaken(KeysValues(key, value))


class KeptLayout(Layout):
    """A layout of the kept tokens alone, given the keys and values of the others.

    Args:
        whole: layout of all tokens.
        others: numbers of the tokens that run and are not kept.
        taken: their keys and values.

    """

    def __init__(self, whole: Layout, others: Int64[np.ndarray, " others"], taken: KeysValues) -> None:
        super().__init__(whole.trie, whole.dtype, whole.device, whole.known)
        self.queries, self._others, self._taken, self.seen = whole.last, others, taken, whole.seen

    def _all(self, block: int, parts: list[tuple[Int64[np.ndarray, " _"], KeysValues]]) -> KeysValues:
        """Add the keys and values of the other tokens as well."""
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
        TrieUnsupportedError: the model passes a mask, or a tensor that is unknown here (position bias,
            sinks, ...).

    """
    unknown = [name for name, given in others.items() if isinstance(given, Tensor) and name not in HARMLESS]
    if attention_mask is not None or unknown:
        raise TrieUnsupportedError(f"its attention takes {', '.join(unknown) or 'a mask'}")
    key, value = layout.join(getattr(module, "layer_idx", 0), key, value)
    heads, groups = query.shape[1], key.shape[1]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    blocks = layout.blocks(sliding_window, groups, heads // groups)
    queries = _by_block(query, groups, layout.size)
    each = zip(queries, _gathered(key, blocks), _gathered(value, blocks), blocks.biases, strict=True)
    mixed = [_attend(q, k, v, bias, scale, softcap, fused=layout.fused) for q, k, v, bias in each]
    by_head = torch.stack(mixed).view(-1, heads, layout.size, value.shape[-1])
    return by_head.transpose(1, 2).reshape(1, -1, heads, value.shape[-1]), None


def _by_block(
    query: Float[Tensor, "1 heads queries d"], groups: int, size: int
) -> Float[Tensor, "blocks groups q d"]:
    """Gather the queries of each block, within it by group of heads."""
    each = query[0].unflatten(1, (-1, size)).transpose(0, 1)
    return each.reshape(len(each), groups, -1, query.shape[-1])


def _gathered(part: Float[Tensor, "1 groups tokens d"], blocks: Blocks) -> list[Float[Tensor, "groups k d"]]:
    """Gather the keys, or the values, of all blocks with one copy."""
    groups, width = part.shape[1], part.shape[3]
    rows = part[0].transpose(0, 1).reshape(-1, width)  # this is a view of the projections' output
    return [chunk.view(groups, -1, width) for chunk in rows.index_select(0, blocks.rows).split(blocks.counts)]


def _merged(
    places: Sequence[Int64[Tensor, " _"]], parts: Sequence[Float[Tensor, "1 groups _ d"]]
) -> Float[Tensor, "1 groups tokens d"]:
    """Put the parts at their places; together they cover all tokens."""
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
    """Attend within one block; on a CPU plain products are faster than a fused kernel on small blocks.

    Attention scores are float32 whatever type the model computes in, as they are within fused kernels. With
    large key biases or massive activations, scores reach hundreds, and bfloat16 would round them to whole
    numbers before the softmax.
    """
    if fused and softcap is None:
        return nn.functional.scaled_dot_product_attention(q[None], k[None], v[None], bias, scale=scale)[0]
    q, k = q.float(), k.float().transpose(1, 2)
    if softcap is None:
        scores = torch.baddbmm(bias.expand(len(q), -1, -1), q, k, alpha=scale)
    else:
        scores = torch.bmm(q, k).mul_(scale / softcap).tanh_().mul_(softcap).add_(bias)
    return torch.bmm(torch.softmax(scores, dim=-1).to(v.dtype), v)


def register() -> None:
    """Make `trie_attention` known to transformers under `NAME`."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, trie_attention)


def send(array: np.ndarray, device: str) -> Tensor:
    """Copy an array to the device, without waiting for the copy where the device allows that."""
    tensor = torch.from_numpy(array)
    return (
        tensor.pin_memory().to(device, non_blocking=True) if torch.device(device).type == "cuda" else tensor
    )
