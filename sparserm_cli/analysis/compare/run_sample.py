"""A run in memory for many fits: pooled vectors, latents of each response, and pairs.

Axes: `n` responses of the pairs, `m` pairs, `d_in` width of the residual stream, `d_sae` latents.
Memory: 8 bytes x d_in x n per layer, and 16 bytes per latent that fires on a response.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any, NamedTuple, Self

import numpy as np
from jaxtyping import Float32, Int64, UInt64
from scipy import sparse

from sparserm_cli.config import Progress
from sparserm_cli.errors import UsageError
from sparserm_cli.stages.frequency.counted_responses import FOLDS, STRATA, CountedResponses, class_totals
from sparserm_cli.stages.frequency.fires import ONE_VECTOR, as_one_vector, last_tokens
from sparserm_cli.stages.frequency.firing_counts import Counts
from sparserm_cli.stages.frequency.unit_responses import counted_pairs
from sparserm_cli.stages.select.select import DecoderRows, sae_decoder
from sparserm_cli.store.artifacts.frequency import Unit
from sparserm_cli.store.capture.artifact import capture_path
from sparserm_cli.store.capture.reader import ActivationsReader
from sparserm_cli.store.features.artifact import features_path
from sparserm_cli.store.features.plan import SAEFacts
from sparserm_cli.store.features.reader import FeatureBlock, FeaturesReader


class Latents(NamedTuple):
    """The values of each latent on each response at one layer, as CSR matrices of shape (n, d_sae)."""

    tokens: sparse.csr_array
    """The number of tokens on which the latent fires."""
    mean: sparse.csr_array
    """The latent's mean value over all tokens of the response."""
    largest: sparse.csr_array
    """The latent's largest value on the response."""
    last: sparse.csr_array
    """1 where the latent fires on the last token of the response."""
    of_mean: sparse.csr_array | None = None
    """1 where it fires on the mean vector of the response; None without an SAE to encode it."""

    def of_rows(self, rows: Int64[np.ndarray, " rows"]) -> "Latents":
        """Return the latents of some responses."""
        return Latents(*(None if matrix is None else matrix[rows] for matrix in self))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Sample:
    """The pairs of a run with all data that a fit can use."""

    name: str
    """The name of the run in tables."""
    pooled: Mapping[int, Mapping[str, Float32[np.ndarray, "n d_in"]]]
    """The vectors by layer and pooling (`mean`, `last`)."""
    latents: Mapping[int, Latents]
    """The latents by layer; empty without features."""
    decoder: DecoderRows
    """The function that returns decoder rows."""
    lengths: Int64[np.ndarray, " n"]
    """The number of tokens of each response."""
    pairs: Int64[np.ndarray, "m 2"]
    """The indices of the chosen and the rejected response of each pair."""
    groups: UInt64[np.ndarray, " m"]
    """The key of the prompt of each pair."""
    capture: ActivationsReader
    """The capture from which the sample was read, with the token ids."""
    rows: Int64[np.ndarray, " n"]
    """The number of each response in the capture."""

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers in increasing order."""
        return tuple(self.pooled)

    def only(self, layers: tuple[int, ...]) -> Self:
        """Return the same pairs with some of the layers.

        Raises:
            UsageError: one of the layers is missing.

        """
        missing = [layer for layer in layers if layer not in self.pooled]
        if missing:
            there = f"some of {', '.join(map(str, self.layers))} ({self.name})"
            hint = "capture and encode that layer"
            raise UsageError("--layer", there, ", ".join(map(str, missing)), hint)
        pooled = {layer: self.pooled[layer] for layer in layers}
        return replace(self, pooled=pooled, latents={layer: self.latents[layer] for layer in layers})

    def of_pairs(self, kept: Int64[np.ndarray, " kept"]) -> Self:
        """Return some of the pairs, with only their responses."""
        rows, places = np.unique(self.pairs[kept], return_inverse=True)
        return replace(
            self,
            pooled={
                layer: {name: vectors[rows] for name, vectors in pooled_vectors.items()}
                for layer, pooled_vectors in self.pooled.items()
            },
            latents={layer: latents.of_rows(rows) for layer, latents in self.latents.items()},
            lengths=self.lengths[rows],
            pairs=places.reshape(-1, 2),
            groups=self.groups[kept],
            rows=self.rows[rows],
        )


def load_sample(
    name: str, run: PurePath, *, decoder: DecoderRows | None = None, progress: Progress | None = None
) -> Sample:
    """Read a run that has been captured and encoded.

    Args:
        name: the name of the sample in tables.
        run: the run directory.
        decoder: returns decoder rows; None reads them from the SAE that made the features, which then encodes
            the mean vector of each response as well.
        progress: called with the numbers of units read and of all units.

    Raises:
        IncompatibleError: activations or features are missing, incomplete or do not belong together.
        CorruptStoreError: one of them is damaged.

    """
    capture = ActivationsReader(capture_path(run))
    features = FeaturesReader(features_path(run))
    features.check_parent(capture.lineage.as_parent())
    usable = counted_pairs(capture, 0.0, 0)
    stored = capture.pairs()
    both = np.stack([stored.chosen, stored.rejected], axis=1)[usable]
    rows, places = np.unique(both, return_inverse=True)
    layers = features.plan.layers
    pooled = {
        layer: {name: capture.pooled(layer, name)[rows] for name in ("mean", "last")} for layer in layers
    }
    latents = {}
    for number, layer in enumerate(layers):
        parts = []
        for block in features.iter_blocks(layer):
            parts.append(_of_block(block, features.plan.sae(layer).d_sae))
            if progress:
                progress(number * len(features.units) + len(parts), len(layers) * len(features.units))
        stacked: list[Any] = [
            sparse.csr_array(sparse.vstack(matrices))
            for matrices in zip(*(part[:-1] for part in parts), strict=True)
        ]
        on_means = None if decoder else _on_means(features.plan.sae(layer), pooled[layer]["mean"])
        latents[layer] = Latents(*stacked).of_rows(rows)._replace(of_mean=on_means)
    return Sample(
        name=name,
        pooled=pooled,
        latents=latents,
        decoder=decoder or sae_decoder({sae.layer: sae for sae in features.plan.saes}),
        lengths=capture.response_lengths.astype(np.int64)[rows],
        pairs=places.reshape(-1, 2),
        groups=capture.response_group()[stored.chosen][usable],
        capture=capture,
        rows=rows.astype(np.int64),
    )


def _of_block(block: FeatureBlock, d_sae: int) -> Latents:
    """Summarise the latents of one unit per response."""
    response = np.repeat(np.arange(len(block.lengths)), block.lengths)
    key = np.repeat(response, np.diff(block.csr.indptr)) * d_sae + block.csr.indices.astype(np.int64)
    order = np.argsort(key, kind="stable")
    key, values = key[order], block.csr.data[order]
    starts = np.flatnonzero(np.diff(key, prepend=-1))
    shape = (len(block.lengths), d_sae)
    where = (key[starts] // d_sae, key[starts] % d_sae)
    counts = np.diff(np.append(starts, len(key))).astype(np.int64)
    sums = np.add.reduceat(values, starts) if len(starts) else values
    largest = np.maximum.reduceat(values, starts) if len(starts) else values
    columns = (counts, sums / block.lengths[where[0]].astype(np.float32), largest)
    tokens, mean, most = (sparse.csr_array((data, where), shape=shape) for data in columns)
    bounds, last = last_tokens(block)
    fires = sparse.csr_array((np.ones(len(last), np.int64), last.astype(np.int64), bounds), shape=shape)
    return Latents(tokens, mean, most, fires)


def _on_means(facts: SAEFacts, vectors: Float32[np.ndarray, "n d_in"]) -> sparse.csr_array:
    """Return 1 where a latent fires on the mean vector of a response."""
    from sparserm_cli.stages.frequency.mean_vectors import encoded_means, loaded_encoder

    csr = encoded_means(loaded_encoder(facts), vectors)
    ones, latents = np.ones(len(csr.indices), np.int64), csr.indices.astype(np.int64)
    return sparse.csr_array((ones, latents, csr.indptr), shape=(len(vectors), facts.d_sae))


def count(latents: Latents, counted: CountedResponses, unit: Unit) -> Counts:
    """Return what `frequency` counts, from the latents of each response in memory.

    Raises:
        UsageError: the mean vectors were not encoded.

    """
    if unit in ONE_VECTOR:
        vectors = latents.last if unit == "last" else latents.of_mean
        if vectors is None:
            hint = "take another unit"
            raise UsageError("--unit mean", "the SAE that made the features", "none", hint)
        fires = in_unit = other = vectors
        counted = as_one_vector(counted)
    else:
        fires = (latents.tokens > 0).astype(np.int64)
        in_unit, other = (latents.tokens, fires) if unit == "token" else (fires, latents.tokens)
    d_sae = latents.tokens.shape[1]
    classed = np.zeros((FOLDS, STRATA, 2, d_sae), np.int64)
    by_side = np.zeros((2, d_sae), np.int64)
    for side, mask in enumerate((counted.chosen, counted.rejected)):
        rows = np.flatnonzero(mask)
        place = counted.fold[rows] * STRATA + counted.stratum[rows]
        ones = np.ones(len(rows), np.int64)
        member = sparse.csr_array((ones, (place, rows)), shape=(FOLDS * STRATA, len(mask)))
        classed[:, :, side] = (member @ in_unit).toarray().reshape(FOLDS, STRATA, d_sae)
        by_side[side] = np.asarray(other[rows].sum(axis=0)).reshape(-1)
    chosen, rejected = (fires[counted.pairs[:, side]] for side in (0, 1))
    joint = chosen.multiply(rejected).T @ counted.pair_weight
    tokens_total, responses_total = class_totals(counted)
    summed = classed.sum(axis=(0, 1))
    by_token = unit == "token"
    return Counts(
        unit=unit,
        classed=classed,
        classed_total=tokens_total if by_token else responses_total,
        tokens=summed if by_token else by_side,
        tokens_total=tokens_total.sum(axis=(0, 1)),
        responses=by_side if by_token else summed,
        responses_total=responses_total.sum(axis=(0, 1)),
        discordant=np.stack([array.T @ counted.pair_weight - joint for array in (chosen, rejected)]),
        prompts=float(counted.pair_weight.sum()),
    )
