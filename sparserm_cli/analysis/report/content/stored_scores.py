"""The stored pairs as the reward model scores them, and the responses that lie furthest along each direction.

Reads: the pooled vectors of `activations.zarr`. Memory: one unit of them, the row arrays of the capture (some
50 bytes a response and a pair), and a number more a response. Axes: n (responses of a unit), p (projections).
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64, UInt64

from sparserm_cli.config import Progress
from sparserm_cli.models.head.reward_head import RewardHead
from sparserm_cli.store.capture.reader import ActivationsReader

EXTREMES = 3
"""Responses at each end of a direction that are kept."""


class StoredScores(NamedTuple):
    """What one pass over the pooled vectors gives.

    Fields:
        scores: of each response; NaN of one without vectors.
        highest: for each projection its highest responses, best first; -1 where there are fewer.
        highest_at: their standardised projections.
        lowest: the same at the other end, lowest first.
        lowest_at: their standardised projections.
    """

    scores: Float32[np.ndarray, " responses"]
    highest: Int64[np.ndarray, "top p"]
    highest_at: Float64[np.ndarray, "top p"]
    lowest: Int64[np.ndarray, "top p"]
    lowest_at: Float64[np.ndarray, "top p"]


class PairScores(NamedTuple):
    """The stored pairs whose both responses have a score.

    Fields:
        chosen: number of the chosen response.
        rejected: number of the rejected one.
        row: row of the input, from 1.
        group: key of the prompt.
        margin: chosen score less rejected score.
        length: chosen tokens less rejected tokens.
    """

    chosen: Int64[np.ndarray, " pairs"]
    rejected: Int64[np.ndarray, " pairs"]
    row: Int64[np.ndarray, " pairs"]
    group: UInt64[np.ndarray, " pairs"]
    margin: Float64[np.ndarray, " pairs"]
    length: Int64[np.ndarray, " pairs"]


def stored_scores(capture: ActivationsReader, head: RewardHead, progress: Progress) -> StoredScores:
    """Score every stored response, unit by unit.

    Args:
        capture: with the head's layers.
        head: of the reward model.
        progress: called with units done and units in all.

    Raises:
        CorruptStoreError: a chunk is damaged; names the unit.
        UsageError: the capture lacks a layer of the head.

    """
    scores = np.full(capture.plan.layout.responses, np.nan, np.float32)
    width = len(head.arrays.mean)
    top, bottom = _Extremes(width), _Extremes(width)
    places = [(layer, pooling) for layer in head.layers for pooling in head.poolings]
    streams = [capture.iter_pooled(layer, pooling) for layer, pooling in places]
    for done, blocks in enumerate(zip(*streams, strict=True), start=1):
        pooled: dict[int, dict[str, np.ndarray]] = {layer: {} for layer in head.layers}
        for (layer, pooling), (_, block) in zip(places, blocks, strict=True):
            pooled[layer][pooling] = block
        start = blocks[0][0]
        with torch.inference_mode():
            x = head.standardised(pooled)
            scores[start : start + len(x)] = head.score(x).numpy()
        top.add(start, x.double().numpy())
        bottom.add(start, -x.double().numpy())
        progress(done, len(capture.units))
    return StoredScores(scores, top.responses, top.values, bottom.responses, -bottom.values)


def pair_scores(capture: ActivationsReader, scores: Float32[np.ndarray, " responses"]) -> PairScores:
    """Return the stored pairs that can be compared.

    Args:
        capture: whose pairs.
        scores: one a response.

    """
    pairs = capture.pairs()
    groups = capture.response_group()[pairs.chosen]
    margins = scores[pairs.chosen].astype(np.float64) - scores[pairs.rejected]
    lengths = capture.response_lengths.astype(np.int64)
    kept = np.isfinite(margins)
    return PairScores(
        pairs.chosen[kept],
        pairs.rejected[kept],
        pairs.row[kept],
        groups[kept],
        margins[kept],
        (lengths[pairs.chosen] - lengths[pairs.rejected])[kept],
    )


def most_wrong(capture: ActivationsReader, pairs: PairScores, count: int) -> Int64[np.ndarray, " most"]:
    """Return the pairs whose rejected response is preferred most clearly, at most one a prompt.

    Args:
        capture: whose pairs.
        pairs: scored.
        count: at most so many.

    """
    wrong = np.flatnonzero(pairs.margin < 0)
    order = wrong[np.argsort(pairs.margin[wrong], kind="stable")]
    prompts = capture.rows.response_prompt[pairs.chosen[order]]
    _, first = np.unique(prompts, return_index=True)
    return order[np.sort(first)[:count]]


def most_right(capture: ActivationsReader, pairs: PairScores, count: int) -> Int64[np.ndarray, " most"]:
    """Return the pairs whose chosen response is preferred most clearly; arguments as of `most_wrong`."""
    return most_wrong(capture, pairs._replace(margin=-pairs.margin), count)


class _Extremes:
    """The largest values of each column so far, and where they were."""

    def __init__(self, columns: int) -> None:
        self.values = np.full((EXTREMES, columns), -np.inf)
        self.responses = np.full((EXTREMES, columns), -1, np.int64)

    def add(self, start: int, block: Float64[np.ndarray, "n p"]) -> None:
        """Take in the next responses, the first of which is number `start`; NaN rows are passed over."""
        values = np.concatenate([self.values, np.where(np.isnan(block), -np.inf, block)])
        numbers = np.broadcast_to(np.arange(start, start + len(block))[:, None], block.shape)
        numbers = np.concatenate([self.responses, numbers])
        best = np.argsort(-values, axis=0, kind="stable")[:EXTREMES]
        self.values = np.take_along_axis(values, best, axis=0)
        kept = np.take_along_axis(numbers, best, axis=0)
        self.responses = np.where(np.isfinite(self.values), kept, -1)
