"""Where latents fire in the captured responses: random samples, the strongest places, a histogram.

Reads: `features.zarr`, and the token ids of `activations.zarr`. Memory: one unit of both, and for each wanted
latent at most `STRONGEST + 4 * KEPT` contexts. Axes: rows (response tokens of a unit), entries (latents that
fire on a row), n (candidates or kept contexts), window (tokens of a context).

A context is the stretch of a response around one token. Which contexts are kept depends on hashes of prompts
and latents alone, so that neither the units nor the other latents change the choice.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt64

from sparserm_cli.analysis.contexts import BINS, LOWEST, Context, Firing, Halves
from sparserm_cli.config import Progress
from sparserm_cli.data.splits import mixed_bits, validation_mask
from sparserm_cli.store.capture.reader import ActivationsReader
from sparserm_cli.store.features.reader import FeatureBlock, FeaturesReader

STRONGEST, KEPT = 3, 150
"""Contexts of each latent that are kept: the strongest, and those of each sample."""
BEFORE, AFTER = 14, 6
"""Number of tokens before and after the token at the centre of a context."""


def firing_of(
    features: FeaturesReader,
    capture: ActivationsReader,
    layer: int,
    wanted: Sequence[int],
    progress: Progress,
    *,
    seed: int = 0,
    others: bool = False,
) -> list[Firing]:
    """Find out where some latents fire, in one pass over a layer.

    Args:
        features: the encoding.
        capture: the capture that it was made from, for the token ids.
        layer: one of its layers.
        wanted: latents, each once.
        progress: called with units done and units in all.
        seed: seed of the two sets of prompts and of the samples.
        others: sample contexts without firing as well.

    Returns:
        one result for each of `wanted`, in that order.

    Raises:
        CorruptStoreError: a part is damaged; names the unit.
        UsageError: the layer was not encoded.

    """
    slots = np.full(features.plan.sae(layer).d_sae, -1, np.int64)
    slots[list(wanted)] = np.arange(len(wanted))
    salts = mixed_bits(np.asarray(wanted, np.uint64), seed + 1)
    strongest = _Kept(STRONGEST, one_each=False)
    firing, without = (_Kept(KEPT, one_each=True) for _ in range(2))
    histogram = np.zeros((len(wanted), BINS), np.int64)
    responses = np.zeros(len(wanted), np.int64)
    for done, block in enumerate(features.iter_blocks(layer), start=1):
        unit = _Unit.of(block, capture, slots, seed)
        peaks = unit.peaks()
        bins = np.clip((4 * np.log2(unit.values / LOWEST)).astype(np.int64), 0, BINS - 1)
        np.add.at(histogram, (unit.slot, bins), 1)
        responses += np.bincount(peaks["slot"], minlength=len(wanted))
        strongest.add(unit.contexts({**peaks, "order": -peaks["value"].astype(np.float64)}))
        firing.add(unit.contexts(unit.sampled(peaks, salts, firing.limits())))
        if others:
            quiet = unit.quiet_places(salts, len(wanted), seed)
            without.add(unit.contexts(unit.sampled(quiet, salts, without.limits())))
        progress(done, len(features.units))
    return [
        Firing(
            int(responses[slot]),
            histogram[slot],
            strongest.of(2 * slot),
            Halves(firing.of(2 * slot), firing.of(2 * slot + 1)),
            Halves(without.of(2 * slot), without.of(2 * slot + 1)),
        )
        for slot in range(len(wanted))
    ]


Columns = Mapping[str, np.ndarray]
"""Candidates for contexts: `slot`, `response` (in the unit), `row`, `value`, then `place` and `order`."""


class _Unit(NamedTuple):
    """The entries of the wanted latents in one unit, latent by latent, and what is known of its responses.

    Fields:
        slot: number of the wanted latent of each entry.
        rows: token of each entry, rising within a latent.
        values: activation of each entry.
        first: number of the unit's first response.
        starts: first token of each of its responses, and the end.
        groups: key of each response's prompt.
        own: hash of each response, which chooses among the responses to one prompt.
        scoring: whether each response's prompt belongs to those on which names are tested.
        ids: token ids of the unit's responses.
    """

    slot: Int64[np.ndarray, " entries"]
    rows: Int64[np.ndarray, " entries"]
    values: Float32[np.ndarray, " entries"]
    first: int
    starts: Int64[np.ndarray, " starts"]
    groups: UInt64[np.ndarray, " responses"]
    own: UInt64[np.ndarray, " responses"]
    scoring: Bool[np.ndarray, " responses"]
    ids: Int64[np.ndarray, " rows"]

    @classmethod
    def of(
        cls, block: FeatureBlock, capture: ActivationsReader, slots: Int64[np.ndarray, " d_sae"], seed: int
    ) -> "_Unit":
        """Take the entries of the wanted latents out of a unit."""
        slot = slots[block.csr.indices]
        kept = np.flatnonzero(slot >= 0)
        rows = np.searchsorted(block.csr.indptr, kept, side="right") - 1
        order = np.argsort(slot[kept], kind="stable")
        starts = np.concatenate([[0], np.cumsum(block.lengths, dtype=np.int64)])
        stored, span = capture.rows, block.responses
        begin = int(stored.unit_token_start[block.unit])
        ids = stored.part("response_ids", begin, begin + int(starts[-1])).astype(np.int64)
        prompts = stored.prompts(block.unit)
        low, high = int(prompts.min()), int(prompts.max()) + 1
        groups = stored.part("prompt_group", low, high)[prompts - low].astype(np.uint64)
        characters = stored.part("response_characters", span.start, span.stop)
        sizes = characters.astype(np.uint64) << np.uint64(24)
        own = mixed_bits(groups ^ (sizes + block.lengths.astype(np.uint64)), seed + 2)
        scoring = validation_mask(groups, 0.5, seed)
        values = block.csr.data[kept][order]
        return cls(slot[kept][order], rows[order], values, span.start, starts, groups, own, scoring, ids)

    def peaks(self) -> dict[str, np.ndarray]:
        """Return the strongest entry of each latent in each response on which it fires."""
        response = np.searchsorted(self.starts, self.rows, side="right") - 1
        pair = self.slot * (len(self.starts) - 1) + response
        order = np.lexsort((self.rows, -self.values, pair))
        best = order[np.flatnonzero(np.diff(pair[order], prepend=-1))]
        chosen = {"slot": self.slot[best], "response": response[best]}
        return {**chosen, "row": self.rows[best], "value": self.values[best]}

    def quiet_places(
        self, salts: UInt64[np.ndarray, " latents"], latents: int, seed: int
    ) -> dict[str, np.ndarray]:
        """Return for each latent and response a random token, where the latent fires nowhere around it."""
        lengths = np.diff(self.starts)
        slot = np.repeat(np.arange(latents), len(lengths))
        response = np.tile(np.arange(len(lengths)), latents)
        drawn = mixed_bits(self.own[response] ^ salts[slot], seed + 3) % lengths[response].astype(np.uint64)
        row = self.starts[response] + drawn.astype(np.int64)
        low = np.maximum(row - BEFORE, self.starts[response])
        high = np.minimum(row + AFTER + 1, self.starts[response + 1])
        keys, width = self.slot * int(self.starts[-1]) + self.rows, int(self.starts[-1])
        quiet = np.searchsorted(keys, slot * width + low) == np.searchsorted(keys, slot * width + high)
        columns = {"slot": slot, "response": response, "row": row}
        return {name: values[quiet] for name, values in columns.items()} | {
            "value": np.zeros(int(quiet.sum()), np.float32)
        }

    def sampled(
        self, places: Columns, salts: UInt64[np.ndarray, " latents"], limits: Mapping[int, float]
    ) -> dict[str, np.ndarray]:
        """Return the candidates in a random order of prompts that a full sample has not got beyond yet."""
        slot, response = places["slot"], places["response"]
        order = mixed_bits(self.groups[response] ^ salts[slot], 0).astype(np.float64)
        place = 2 * slot + self.scoring[response]
        limit = np.full(2 * len(salts), np.inf)
        limit[list(limits)] = list(limits.values())
        kept = order <= limit[place]
        columns = {**places, "order": order, "place": place}
        return {name: values[kept] for name, values in columns.items()}

    def contexts(self, places: Columns) -> dict[str, np.ndarray]:
        """Return the columns that a kept context has, for some candidates."""
        slot, response, row = places["slot"], places["response"], places["row"]
        begin, end = self.starts[response], self.starts[response + 1]
        window = row[:, None] + np.arange(-BEFORE, AFTER + 1)
        inside = (window >= begin[:, None]) & (window < end[:, None])
        width = max(len(self.ids), 1)
        keys = self.slot * width + self.rows
        wanted = slot[:, None] * width + window
        at = np.minimum(np.searchsorted(keys, wanted), max(len(keys) - 1, 0))
        fires = inside & (keys[at] == wanted) if len(keys) else np.zeros(window.shape, bool)
        return {
            "place": places.get("place", 2 * slot),
            "order": places["order"],
            "tie": self.own[response],
            "response": self.first + response,
            "peak": row - begin,
            "value": places["value"],
            "start": np.maximum(row - BEFORE, begin) - begin,
            "last": row + AFTER + 1 >= end,
            "ids": np.where(inside, self.ids[np.clip(window, 0, width - 1)], -1),
            "values": np.where(fires, self.values[at], 0.0) if len(keys) else np.zeros(window.shape),
        }


class _Kept:
    """The contexts of each place that come first in their order.

    Args:
        most: number of contexts that a place keeps.
        one_each: keep only one context of each order value, which those of one prompt share.

    """

    def __init__(self, most: int, *, one_each: bool) -> None:
        self._most, self._one_each = most, one_each
        self._columns: dict[str, np.ndarray] = {}

    def add(self, candidates: Columns) -> None:
        """Take in candidates, and let go those that come too late."""
        columns = dict(candidates)
        if self._columns:
            columns = {name: np.concatenate([self._columns[name], candidates[name]]) for name in columns}
        # Of two contexts with one order value, those of one prompt, the response's own hash chooses.
        order = np.lexsort((columns["response"], columns["tie"], columns["order"], columns["place"]))
        place, value = columns["place"][order], columns["order"][order]
        fresh = np.ones(len(order), bool)
        if self._one_each:
            fresh[1:] = (place[1:] != place[:-1]) | (value[1:] != value[:-1])
        order, place = order[fresh], place[fresh]
        begins = np.flatnonzero(np.diff(place, prepend=-1))
        counts = np.diff(np.append(begins, len(place)))
        rank = np.arange(len(place)) - np.repeat(begins, counts)
        kept = order[rank < self._most]
        self._columns = {name: values[kept] for name, values in columns.items()}

    def limits(self) -> dict[int, float]:
        """Return the last order value of each place that is full."""
        if not self._columns:
            return {}
        places, counts = np.unique(self._columns["place"], return_counts=True)
        ends = self._columns["order"][np.cumsum(counts) - 1]
        full = counts >= self._most
        return dict(zip(places[full].tolist(), ends[full].tolist(), strict=True))

    def of(self, place: int) -> tuple[Context, ...]:
        """Return the contexts of a place in their order."""
        if not self._columns:
            return ()
        columns = self._columns
        span = slice(*np.searchsorted(columns["place"], [place, place + 1]))
        inside = columns["ids"][span] >= 0
        numbers = zip(
            columns["response"][span].tolist(),
            columns["peak"][span].tolist(),
            columns["value"][span].tolist(),
            columns["start"][span].tolist(),
            strict=True,
        )
        last = columns["last"][span].tolist()
        return tuple(
            Context(*facts, tuple(values[shown].tolist()), tuple(ids[shown].tolist()), ends)
            for facts, values, ids, shown, ends in zip(
                numbers, columns["values"][span], columns["ids"][span], inside, last, strict=True
            )
        )
