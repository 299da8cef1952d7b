"""`select`: choose the decoder rows of the latents that distinguish chosen from rejected responses.

Reads: `frequency.parquet`, the plan of `features.zarr`, the SAE's decoder; `--by forward` also the pooled
vectors of `activations.zarr`. Writes: `directions/`.
Memory: the table of frequencies and one SAE; for `forward` the pooled vectors of at most DENSE_PAIRS pairs.
"""

import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import PurePath
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int64

from sparserm_cli.config import Note, SelectConfig
from sparserm_cli.errors import IncompatibleError
from sparserm_cli.models.head.baselines import random_directions
from sparserm_cli.models.head.projections import DENSE_PAIRS, projections
from sparserm_cli.models.sae.decoder_rows import load_decoder
from sparserm_cli.models.sae.load import find_sae, read_metadata
from sparserm_cli.models.sae.metadata import sae_digest
from sparserm_cli.stages.frequency.unit_responses import counted_pairs
from sparserm_cli.stages.select.rankings import Candidates, Chosen, choose
from sparserm_cli.statistics.pair_moments import Moments, moments
from sparserm_cli.store.artifacts.directions import (
    TYPE,
    VERSION,
    Directions,
    LayerDirections,
    directions_path,
    read_directions,
    write_directions,
)
from sparserm_cli.store.artifacts.frequency import Frequency, LatentStatistics, frequency_path, read_frequency
from sparserm_cli.store.capture.artifact import capture_path, open_capture
from sparserm_cli.store.capture.reader import ActivationsReader
from sparserm_cli.store.features.artifact import features_path
from sparserm_cli.store.features.plan import SAEFacts
from sparserm_cli.store.features.reader import FeaturesReader
from sparserm_cli.store.io.atomic import sweep
from sparserm_cli.store.provenance import Lineage, check_parent
from sparserm_cli.store.run.artifacts import is_made
from sparserm_cli.store.run.locks import run_lock
from sparserm_cli.store.units.unit_store import is_planned

DecoderRows = Callable[[int, Int64[np.ndarray, " latents"]], Float32[np.ndarray, "latents d_in"]]
"""Returns the decoder rows of some latents of a layer's SAE."""


class SelectSummary(NamedTuple):
    """The result of `select`.

    Fields:
        path: folder of the directions.
        directions: the directions that were written or were there already.
        by: name of the ranking.
        top_k: number of directions per side and layer.
        seconds: duration of the command in seconds.
        fresh: whether the directions were up to date already.
    """

    path: PurePath
    directions: Directions
    by: str
    top_k: int
    seconds: float
    fresh: bool


def select(config: SelectConfig, *, note: Note, decoder: DecoderRows | None = None) -> SelectSummary:
    """Choose `top_k` directions per side in every layer, unless the run has them already.

    Args:
        config: the options.
        note: called with each message for the user.
        decoder: returns decoder rows; None reads them from the SAE that the features were made with.

    Raises:
        UsageError: there is no such ranking, or too few latents speak for a side.
        IncompatibleError: there are no frequencies, they are of other features, or the SAE has changed.
        CorruptStoreError: frequencies or features are damaged.
        ResourceError: the disk is full.

    """
    begun = time.monotonic()
    # 1. Read the frequencies, and check that they were made from the present features.
    frequency = read_frequency(config.run)
    features = FeaturesReader(features_path(config.run))
    where = f"{frequency_path(config.run)} (from {features.root.name})"
    recorded = frequency.lineage.parent("features")
    check_parent(where, recorded, features.lineage.as_parent(), "run `sparserm frequency`")
    if is_planned(capture_path(config.run)):  # a capture may be thrown away once it has been encoded
        features.check_parent(open_capture(config.run).lineage.as_parent())
    identity = {"by": config.by, "top_k": config.top_k, "seed": config.seed}
    parents = {
        "frequency": frequency.lineage.as_parent(),
        "features": recorded,
        "activations": features.parent,
    }
    lineage, path = Lineage(TYPE, VERSION, identity, parents), directions_path(config.run)
    if is_made(config.run, lineage):
        note(f"{path.name} are up to date")
        seconds, there = time.monotonic() - begun, read_directions(config.run)
        return SelectSummary(path, there, config.by, config.top_k, seconds, fresh=True)
    # 2. Choose the strongest latents of each layer, and read their decoder rows.
    read_rows = decoder or sae_decoder({sae.layer: sae for sae in features.plan.saes})
    of_pairs = counted_moments(config, frequency)
    layers = {
        layer: _directions(
            config, frequency, layer, features.plan.sae(layer).d_in, read_rows, partial(of_pairs, layer)
        )
        for layer in frequency.layers
    }
    # 3. Write the directions, which appear whole or not at all.
    with run_lock(config.run):
        sweep(config.run, everything=True)
        written = write_directions(config.run, Directions(lineage, layers))
    for layer, chosen in layers.items():
        doubtful = int((chosen.q > 0.05).sum())
        if doubtful and not config.by.startswith("random-"):
            note(f"layer {layer}: {doubtful} of {len(chosen.q)} directions could be chance (q above 0.05)")
    seconds = time.monotonic() - begun
    return SelectSummary(path, written, config.by, config.top_k, seconds, fresh=False)


def _directions(
    config: SelectConfig,
    frequency: Frequency,
    layer: int,
    d_in: int,
    decoder: DecoderRows,
    of_pairs: Callable[[], Moments],
) -> LayerDirections:
    """Choose the directions of one layer."""
    measures = frequency.layers[layer]
    candidates = Candidates(
        measures,
        np.array(frequency.totals.fold_total),
        config.top_k,
        rows=lambda latents: decoder(layer, latents),
        of_pairs=of_pairs,
        seed=config.seed,
        where=f"layer {layer}",
    )
    chosen = choose(candidates, config.by)
    if config.by == "random-directions":
        rows = random_directions(2 * config.top_k, d_in, config.seed + layer)
    else:
        rows = decoder(layer, chosen.feature)
    return layer_directions(chosen, rows, measures)


def counted_moments(config: SelectConfig, frequency: Frequency) -> Callable[[int], Moments]:
    """Return a function that computes the moments of a layer's mean vectors over the counted pairs.

    At most DENSE_PAIRS pairs, drawn at random, are used.

    Raises, when it is called:
        IncompatibleError: the capture is gone.

    """

    @cache
    def counted() -> tuple[ActivationsReader, np.ndarray, np.ndarray]:
        counted_by, capture = frequency.lineage.identity, open_capture(config.run)
        pairs = capture.pairs()
        kept = counted_pairs(capture, counted_by["val_fraction"], counted_by["seed"])
        both = np.stack([pairs.chosen, pairs.rejected], axis=1)[kept]
        if len(both) > DENSE_PAIRS:
            both = both[np.random.default_rng(config.seed).choice(len(both), DENSE_PAIRS, replace=False)]
        responses, places = np.unique(both, return_inverse=True)
        return capture, responses, places.reshape(-1, 2)

    def of_layer(layer: int) -> Moments:
        capture, responses, pairs = counted()
        return moments(projections(capture, (layer,), "mean", None, responses), pairs)

    return of_layer


def layer_directions(
    chosen: Chosen, rows: Float32[np.ndarray, "directions d_in"], measures: LatentStatistics
) -> LayerDirections:
    """Combine the chosen latents with their decoder rows and their firing rates."""
    known = chosen.feature >= 0

    def of(values: np.ndarray) -> np.ndarray:
        return np.where(known, values[np.maximum(chosen.feature, 0)], np.nan)

    return LayerDirections(
        rows=np.ascontiguousarray(rows, np.float32),
        feature=chosen.feature.astype(np.int64),
        side=chosen.side,
        statistic=chosen.statistic.astype(np.float64),
        rate_chosen=of(measures.rate[0]),
        rate_rejected=of(measures.rate[1]),
        q=of(measures.mcnemar_q),
    )


def sae_decoder(saes: dict[int, SAEFacts]) -> DecoderRows:
    """Return a reader of decoder rows that checks each layer's SAE before its first use.

    Raises, when it is called:
        IncompatibleError: the SAE is not the one that the features were made with.
        UsageError: the SAE is no longer where it was.

    """
    checked: set[int] = set()

    def rows(layer: int, latents: Int64[np.ndarray, " latents"]) -> Float32[np.ndarray, "latents d_in"]:
        facts = saes[layer]
        if layer not in checked:
            files = find_sae(facts.name)
            digest = sae_digest(files, read_metadata(files))
            if digest != facts.digest:
                hint = "restore that SAE or run `sparserm encode --force`"
                raise IncompatibleError(f"{facts.name}: weights", facts.digest, digest, hint)
            checked.add(layer)
        return load_decoder(facts.name, latents.tolist())

    return rows
