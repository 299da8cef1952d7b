"""Cache of the keys and values of recent prompts, for later responses to them.

A trainer often sends the responses to one prompt one by one. In a causal model nothing about a prompt
depends on its response, so the two vectors per token, block and group of heads that attention needs of it
can be kept. A score then depends on the batch of its prompt, as on its own batch, within rounding.

Memory: at most `most_bytes`, on the model's device; the least recently used prompts are dropped first.

Axes: groups (key-value heads), p (prompt tokens), d (width of a head).
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from sparserm_cli.models.lm.trie import Trie


class KeysValues(NamedTuple):
    """Keys and values of some tokens in one block."""

    key: Float[Tensor, "1 groups _ d"]
    value: Float[Tensor, "1 groups _ d_value"]


class Known(NamedTuple):
    """Keys and values of a trie's tokens that are known before it is run.

    Fields:
        tokens: numbers of the known tokens, ascending.
        blocks: their keys and values, by block.
    """

    tokens: Int64[np.ndarray, " known"]
    blocks: Mapping[int, KeysValues]


class PromptCache:
    """A cache of prompts with bounded size.

    Args:
        most_bytes: limit on the size of keys and values, in bytes.

    Attributes:
        bytes: their present size in bytes.
        hits: number of prompts that were in the cache.
        misses: number of prompts that were not.

    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes, self.bytes, self.hits, self.misses = most_bytes, 0, 0, 0
        self._prompts: OrderedDict[bytes, Mapping[int, KeysValues]] = OrderedDict()

    def known(self, trie: Trie) -> Known | None:
        """Return a trie's known keys and values, without those of kept tokens; None if there are none."""
        cached: dict[bytes, tuple[Int64[np.ndarray, " p"], Mapping[int, KeysValues]]] = {}
        for key, path in _prompts(trie).items():
            if key in self._prompts:
                self._prompts.move_to_end(key)
                cached[key] = path, self._prompts[key]
        self.hits += len(cached)
        self.misses += len(_prompts(trie)) - len(cached)
        if not cached:
            return None
        places = np.concatenate([path for path, _ in cached.values()])
        tokens, first = np.unique(places, return_index=True)
        unwanted = ~np.isin(tokens, trie.kept)
        parts, at = [blocks for _, blocks in cached.values()], torch.from_numpy(first[unwanted])
        blocks = {block: _picked([prompt[block] for prompt in parts], at) for block in parts[0]}
        return Known(tokens[unwanted], blocks)

    def keep(self, trie: Trie, blocks: Mapping[int, KeysValues]) -> None:
        """Remember the prompts of a trie that has been run.

        Args:
            trie: trie that has been run.
            blocks: keys and values of all its tokens, by block.

        """
        for key, path in _prompts(trie).items():
            if key in self._prompts:
                continue
            at = torch.from_numpy(path)
            taken = {
                block: KeysValues(whole.key[:, :, at], whole.value[:, :, at])
                for block, whole in blocks.items()
            }
            size = _size(taken)
            # A NaN spreads over its batch and must not spread from there to other batches.
            if size > self.most_bytes or not taken[max(taken)].key.isfinite().all():
                continue
            self._prompts[key] = taken
            self.bytes += size
            while self.bytes > self.most_bytes:
                self.bytes -= _size(self._prompts.popitem(last=False)[1])


def _prompts(trie: Trie) -> dict[bytes, Int64[np.ndarray, " p"]]:
    """Return the token ids of each prompt of a trie, and the numbers of its tokens."""
    return {trie.ids[path].tobytes(): path for path in trie.prompts if len(path)}


def _picked(parts: list[KeysValues], places: Int64[Tensor, " n"]) -> KeysValues:
    """Return the keys and values of some tokens of several prompts, concatenated."""
    keys, values = zip(*parts, strict=True)
    return KeysValues(torch.cat(keys, dim=2)[:, :, places], torch.cat(values, dim=2)[:, :, places])


def _size(blocks: Mapping[int, KeysValues]) -> int:
    """Return the size of a prompt's keys and values in bytes."""
    return sum(tensor.numel() * tensor.element_size() for pair in blocks.values() for tensor in pair)
