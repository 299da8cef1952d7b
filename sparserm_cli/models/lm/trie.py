"""Prompts with their responses, and the token tree (trie) that holds each shared beginning once.

Axes: tokens (the trie's tokens in depth-first order), seq (one sequence), n (sequences).
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, UInt32


class Tree(NamedTuple):
    """One prompt with all its responses.

    Fields:
        prompt_ids: token ids of the prompt.
        responses: token ids of each response, which has at least one token.
    """

    prompt_ids: UInt32[np.ndarray, " p"]
    responses: tuple[UInt32[np.ndarray, " r"], ...]


class Row(NamedTuple):
    """One prompt with one response, as one sequence.

    Fields:
        tree: number of the tree it comes from.
        response: number of the response within the tree.
        ids: token ids of prompt and response.
        keep: length of the response in tokens; the residuals of these tokens are kept.
    """

    tree: int
    response: int
    ids: UInt32[np.ndarray, " seq"]
    keep: int


class Trie(NamedTuple):
    """Several sequences, where every beginning that some of them share stands once.

    Token k is an ancestor of token q, or q itself, exactly if `k <= q < ends[k]`. A token sees its ancestors
    and itself, which are the tokens that it sees in each of its sequences alone.

    Fields:
        ids: token ids in depth-first order.
        positions: position of each token in its sequence, which is also its number of ancestors.
        ends: number of the last token below each token, plus one.
        kept: numbers of the tokens whose residuals are kept, ascending.
        rows: indices into `kept` of the response tokens of each sequence.
        prompts: numbers of the prompt tokens of each sequence.
    """

    ids: Int64[np.ndarray, " tokens"]
    positions: Int64[np.ndarray, " tokens"]
    ends: Int64[np.ndarray, " tokens"]
    kept: Int64[np.ndarray, " kept"]
    rows: tuple[Int64[np.ndarray, " keep"], ...]
    prompts: tuple[Int64[np.ndarray, " _"], ...]


def sort_rows(rows: Sequence[Row]) -> tuple[list[Row], Int64[np.ndarray, " n"]]:
    """Sort sequences by their tokens, so that shared beginnings stand side by side.

    Returns:
        The sorted rows, and the number of leading tokens that each shares with the row before it.

    """
    ordered = sorted(rows, key=lambda row: row.ids.astype(">u4").tobytes())
    shared = [0] + [_shared(a.ids, b.ids) for a, b in pairwise(ordered)]
    return ordered, np.array(shared[: len(ordered)], np.int64)


def build_trie(rows: Sequence[Row], shared: Int64[np.ndarray, " n"]) -> Trie:
    """Lay out consecutive rows of `sort_rows` as one trie.

    Args:
        rows: sorted sequences.
        shared: number of leading tokens that each shares with the row before it; the first entry is not used.

    """
    path = np.zeros(0, np.int64)
    ids, positions, closed, wanted, prompts = [], [], [], [], []
    total = 0
    for number, row in enumerate(rows):
        known = int(shared[number]) if number else 0
        closed.append((path[known:], total))
        fresh = len(row.ids) - known
        ids.append(row.ids[known:].astype(np.int64))
        positions.append(np.arange(known, len(row.ids)))
        path = np.concatenate([path[:known], np.arange(total, total + fresh)])
        wanted.append(path[len(path) - row.keep :])
        prompts.append(path[: len(path) - row.keep])
        total += fresh
    ends = np.full(total, total, np.int64)
    for tokens, end in closed:
        ends[tokens] = end
    needed = np.zeros(total, np.bool_)
    needed[np.concatenate(wanted)] = True
    rank = np.cumsum(needed) - 1
    kept = np.flatnonzero(needed)
    rows_kept = tuple(rank[tokens] for tokens in wanted)
    return Trie(np.concatenate(ids), np.concatenate(positions), ends, kept, rows_kept, tuple(prompts))


def visible(
    trie: Trie, queries: Int64[np.ndarray, " q"], keys: Int64[np.ndarray, " k"], window: int | None
) -> Bool[np.ndarray, "q k"]:
    """Return which keys each query sees: its ancestors and itself, at most `window` positions back."""
    seen: Bool[np.ndarray, "q k"] = (keys <= queries[:, None]) & (queries[:, None] < trie.ends[keys])
    if window is not None:
        seen &= trie.positions[queries][:, None] - trie.positions[keys] < window
    return seen


def lengthen(trie: Trie, count: int) -> Trie:
    """Add `count` sequences of one token each, which are not kept and which no other token sees.

    Their ids occur in the batch, so that an id with a broken embedding spoils no batch without it.
    """
    places = len(trie.ids) + np.arange(count)
    return trie._replace(
        ids=np.append(trie.ids, np.resize(trie.ids, count)),
        positions=np.append(trie.positions, np.zeros(count, np.int64)),
        ends=np.append(trie.ends, places + 1),
    )


def _shared(a: UInt32[np.ndarray, " a"], b: UInt32[np.ndarray, " b"]) -> int:
    """Count the leading tokens that two sequences have in common."""
    length = min(len(a), len(b))
    differ = a[:length] != b[:length]
    first = int(differ.argmax()) if length else 0
    return first if length and differ[first] else length
