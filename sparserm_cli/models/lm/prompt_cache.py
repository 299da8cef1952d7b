"""Keys and values of prompts that were computed lately, for later responses to them.

A trainer's group of responses to one prompt often comes one by one. In a causal model nothing of a prompt
depends on its response, so what attention needs of it can be kept: two vectors per token, block and group
of heads. A score then depends on the batch of its prompt as it does on its own: within rounding.

Memory: at most `most_bytes`, on the model's device; the prompts asked for longest ago go first.

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
    """What one block's attention needs of some tokens."""

    key: Float[Tensor, "1 groups _ d"]
    value: Float[Tensor, "1 groups _ d_value"]


class Known(NamedTuple):
    """What is known of a trie's tokens before it is run.

    Fields:
        tokens: the known ones, ascending.
        blocks: their keys and values, by block.
    """

    tokens: Int64[np.ndarray, " known"]
    blocks: Mapping[int, KeysValues]


class PromptCache:
    """A store of prompts of bounded size.

    Args:
        most_bytes: what keys and values may take.

    Attributes:
        bytes: what they take now.
        hits: prompts found.
        misses: prompts not found.

    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes, self.bytes, self.hits, self.misses = most_bytes, 0, 0, 0
        self._prompts: OrderedDict[bytes, Mapping[int, KeysValues]] = OrderedDict()

    def known(self, trie: Trie) -> Known | None:
        """Return what is known of a trie, wanted tokens excepted; None for nothing."""
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
            # A NaN spreads to all that stand in its batch, and must not from there to other batches.
            if size > self.most_bytes or not taken[max(taken)].key.isfinite().all():
                continue
            self._prompts[key] = taken
            self.bytes += size
            while self.bytes > self.most_bytes:
                self.bytes -= _size(self._prompts.popitem(last=False)[1])


def _prompts(trie: Trie) -> dict[bytes, Int64[np.ndarray, " p"]]:
    """Return the token ids of each prompt of a trie, and where its tokens stand."""
    return {trie.ids[path].tobytes(): path for path in trie.prompts if len(path)}


def _picked(parts: list[KeysValues], places: Int64[Tensor, " n"]) -> KeysValues:
    """Return some tokens of several prompts, one after the other."""
    keys, values = zip(*parts, strict=True)
    return KeysValues(torch.cat(keys, dim=2)[:, :, places], torch.cat(values, dim=2)[:, :, places])


def _size(blocks: Mapping[int, KeysValues]) -> int:
    """Return the bytes of a prompt's keys and values."""
    return sum(tensor.numel() * tensor.element_size() for pair in blocks.values() for tensor in pair)
