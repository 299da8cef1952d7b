"""Count which latents fire on which side: streaming, in exact integers, in memory independent of the rows.

Axes: `n` responses, `m` pairs, `d_sae` latents, `folds`, `strata` and `side` as in `counted_responses`.

Counts are kept per fold for the bootstrap over prompts, and per stratum for the length-controlled difference.
"""

import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64, Integer, UInt8, UInt16, UInt32

from sparserm_cli.stages.frequency.counted_responses import FOLDS, STRATA, CountedResponses, class_totals
from sparserm_cli.store.artifacts.frequency import Unit

Block = UInt16[np.ndarray, "entries d_sae"] | UInt32[np.ndarray, "entries d_sae"]

_BLOCK_CELLS = 1 << 20  # counts of one block, two bytes each, stay in the second-level cache


class Counts(NamedTuple):
    """How often each latent of one layer fired, with the totals that the rates are shares of."""

    unit: Unit
    """What `classed` counts: tokens, responses, or one vector per response."""
    classed: Int64[np.ndarray, "folds strata 2 d_sae"]
    """Number of firing tokens (or responses) by fold, stratum and side."""
    classed_total: Int64[np.ndarray, "folds strata 2"]
    """Number of all tokens (or responses) by fold, stratum and side."""
    tokens: Int64[np.ndarray, "2 d_sae"]
    """Number of tokens on which the latent fires, by side."""
    tokens_total: Int64[np.ndarray, "2"]
    """Number of tokens by side."""
    responses: Int64[np.ndarray, "2 d_sae"]
    """Number of responses on which the latent fires at least once, by side."""
    responses_total: Int64[np.ndarray, "2"]
    """Number of responses by side."""
    discordant: Float64[np.ndarray, "2 d_sae"]
    """Weight of the pairs in which only the chosen (0) or only the rejected (1) response fires the latent.

    The weights of a prompt's pairs add up to 1.
    """
    prompts: float
    """Weight of all pairs: the number of prompts."""


class _Counters:
    """Sums of rows in a narrow, fast integer type that move to a wide one before they can overflow."""

    def __init__(self, classes: int, d_sae: int, dtype: type[np.unsignedinteger]) -> None:
        self._narrow = np.zeros((classes, d_sae), dtype)
        self._wide = np.zeros((classes, d_sae), np.int64)
        self._room = [int(np.iinfo(dtype).max)] * classes

    def add(self, number: int, row: np.ndarray, most: int) -> None:
        """Add a row to one class; no cell of the row exceeds `most`."""
        if self._room[number] < most:
            self._flush(number)
        self._room[number] -= most
        self._narrow[number] += row

    def _flush(self, number: int) -> None:
        self._wide[number] += self._narrow[number]
        self._narrow[number] = 0
        self._room[number] = int(np.iinfo(self._narrow.dtype).max)

    def total(self) -> Int64[np.ndarray, "classes d_sae"]:
        """Return the sums."""
        return self._wide + self._narrow


class FiringCounter:
    """Counts the firing latents of one layer, unit by unit, in blocks that fit into the processor's cache.

    Each block is a small dense table of (response, latent) counts. One scattered add fills it, and its rows
    are then summed. Besides the counts, only the firing bits of responses whose partner is in another block
    are kept, `d_sae / 8` bytes each, until the partner has been counted.

    Args:
        d_sae: number of latents.
        unit: what `Counts.classed` counts: tokens, else responses.
        longest: number of tokens of the longest response.

    """

    def __init__(self, d_sae: int, unit: Unit, longest: int) -> None:
        self._unit, self._d_sae = unit, d_sae
        counts = np.uint16 if longest < 1 << 16 else np.uint32
        classes = FOLDS * STRATA * 2
        self._tokens = _Counters(classes if unit == "token" else 2, d_sae, counts)
        self._responses = _Counters(2 if unit == "token" else classes, d_sae, np.uint8)
        self._step = min(255, max(8, _BLOCK_CELLS // d_sae))
        self._block = np.empty(self._step * d_sae, counts)
        self._fires = np.empty((self._step, d_sae), np.bool_)
        self._discordant = np.zeros((2, d_sae), np.float64)
        self._totals = np.zeros((2, FOLDS, STRATA, 2), np.int64)
        self._prompts = 0.0
        self._waiting: dict[int, UInt8[np.ndarray, " bytes"]] = {}
        self._awaited: dict[int, int] = {}

    def add(
        self,
        batch: CountedResponses,
        response_indptr: Integer[np.ndarray, " bounds"],
        indices: Integer[np.ndarray, " nonzeros"],
    ) -> None:
        """Count consecutive responses.

        Args:
            batch: the responses with their classes and pairs.
            response_indptr: offset in `indices` at which each response's non-zeros begin, and the end of the
                last response's.
            indices: latent of every non-zero, in the order of the responses.

        """
        # Totals, which do not depend on what fires.
        self._totals += class_totals(batch)
        self._prompts += float(batch.pair_weight[batch.own_pairs].sum())
        by_side = [np.argsort(batch.pairs[:, side], kind="stable") for side in (0, 1)]
        counted = np.flatnonzero(batch.chosen | batch.rejected)
        # Firing counts, block by block.
        for first in range(0, len(counted), self._step):
            places = counted[first : first + self._step]
            block = self._scatter(response_indptr[places], response_indptr[places + 1], indices)
            fires = np.greater(block, 0, out=self._fires[: len(places)])
            self._add_counts(batch, places, block, fires)
            self._add_pairs(batch, by_side, batch.start + places, fires)

    def _scatter(
        self,
        begin: Integer[np.ndarray, " rows"],
        end: Integer[np.ndarray, " rows"],
        indices: Integer[np.ndarray, " nonzeros"],
    ) -> Block:
        """Return how many tokens of each response fire each latent, shape (rows, d_sae)."""
        cells = np.repeat(np.arange(len(begin)) * self._d_sae, end - begin)
        # Adjacent responses are taken as one piece.
        gaps = np.flatnonzero(begin[1:] != end[:-1]) + 1
        starts, ends = begin[[0, *gaps]].tolist(), end[[*(gaps - 1), -1]].tolist()
        if len(starts) == 1:
            cells += indices[starts[0] : ends[0]]
        else:
            cells += np.concatenate([indices[a:b] for a, b in zip(starts, ends, strict=True)])
        flat = self._block[: len(begin) * self._d_sae]
        flat[:] = 0
        np.add.at(flat, cells, flat.dtype.type(1))
        return flat.reshape(len(begin), self._d_sae)

    def _add_counts(
        self,
        batch: CountedResponses,
        places: Int64[np.ndarray, " rows"],
        block: Block,
        fires: Bool[np.ndarray, "rows d_sae"],
    ) -> None:
        """Add the rows of one block, at the indices `places` of the batch, to their classes and sides."""
        bits = fires.view(np.uint8)
        lengths = batch.lengths[places].tolist()
        by_token = self._unit == "token"
        for side, mask in enumerate((batch.chosen[places], batch.rejected[places])):
            rows = np.flatnonzero(mask)
            counted = places[rows]
            classes = (batch.fold[counted] * STRATA + batch.stratum[counted]) * 2 + side
            for row, number in zip(rows.tolist(), classes.tolist(), strict=True):
                self._tokens.add(number if by_token else side, block[row], lengths[row])
                self._responses.add(side if by_token else number, bits[row], 1)

    def _add_pairs(
        self,
        batch: CountedResponses,
        by_side: list[Int64[np.ndarray, " m"]],
        responses: Int64[np.ndarray, " rows"],
        fires: Bool[np.ndarray, "rows d_sae"],
    ) -> None:
        """Count the pairs that this block of ascending responses completes, and keep the others waiting."""
        for side, order in enumerate(by_side):
            bounds = [responses[0], responses[-1] + 1]
            in_block = order[slice(*np.searchsorted(batch.pairs[:, side], bounds, sorter=order))]
            pairs, weights = batch.pairs[in_block], batch.pair_weight[in_block]
            partner = pairs[:, 1 - side]
            inside = (partner >= responses[0]) & (partner <= responses[-1])
            if side == 0:
                self._add_inside(pairs[inside], weights[inside], responses, fires)
            # The partner is in another block: count the pair if it has come, else keep this response's bits.
            late = zip(pairs[~inside].tolist(), weights[~inside].tolist(), strict=True)
            for pair, weight in late:
                here, there = pair[side], pair[1 - side]
                bits = fires[np.searchsorted(responses, here)]
                if there in self._waiting:
                    self._add_late(weight, side, bits, self._recall(there))
                else:
                    self._waiting.setdefault(here, np.packbits(bits))
                    self._awaited[here] = self._awaited.get(here, 0) + 1

    def _add_inside(
        self,
        pairs: Int64[np.ndarray, "found 2"],
        weights: Float64[np.ndarray, " found"],
        responses: Int64[np.ndarray, " rows"],
        fires: Bool[np.ndarray, "rows d_sae"],
    ) -> None:
        """Count the pairs whose two responses are both in the block."""
        order = np.argsort(weights, kind="stable")
        rows, weights = np.searchsorted(responses, pairs[order]), weights[order]
        step = 16  # two copies of that many rows stay in the cache
        for first in range(0, len(rows), step):
            chosen, rejected = (fires[rows[first : first + step, side]] for side in (0, 1))
            weight = weights[first : first + step]
            cuts = [0, *(np.flatnonzero(np.diff(weight)) + 1).tolist(), len(weight)]
            for side, alone in enumerate((chosen > rejected, rejected > chosen)):
                for a, b in itertools.pairwise(cuts):
                    self._discordant[side] += weight[a] * alone[a:b].sum(axis=0, dtype=np.uint8)

    def _recall(self, response: int) -> Bool[np.ndarray, " d_sae"]:
        """Return the bits of a waiting response, and delete them once its last partner has been counted."""
        bits = np.unpackbits(self._waiting[response], count=self._d_sae).astype(bool)
        self._awaited[response] -= 1
        if not self._awaited[response]:
            del self._waiting[response], self._awaited[response]
        return bits

    def _add_late(
        self, weight: float, side: int, here: Bool[np.ndarray, " d_sae"], there: Bool[np.ndarray, " d_sae"]
    ) -> None:
        """Count one pair whose other response was in an earlier block."""
        self._discordant[side] += weight * (here > there)
        self._discordant[1 - side] += weight * (there > here)

    def result(self) -> Counts:
        """Return everything counted so far."""
        tokens, responses = self._tokens.total(), self._responses.total()
        by_token = self._unit == "token"
        classed = (tokens if by_token else responses).reshape(FOLDS, STRATA, 2, self._d_sae)
        tokens_total, responses_total = self._totals
        return Counts(
            unit=self._unit,
            classed=classed,
            classed_total=tokens_total if by_token else responses_total,
            tokens=classed.sum(axis=(0, 1)) if by_token else tokens,
            tokens_total=tokens_total.sum(axis=(0, 1)),
            responses=responses if by_token else classed.sum(axis=(0, 1)),
            responses_total=responses_total.sum(axis=(0, 1)),
            discordant=self._discordant.copy(),
            prompts=self._prompts,
        )
