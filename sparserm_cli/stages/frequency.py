"""`frequency`: how often each latent fires on chosen and on rejected responses.

Reads: `features.zarr`, `activations.zarr` (its plan and rows). Writes: `frequency.parquet`.
Memory: the row arrays (some 50 bytes a response and a pair), one unit of features, and 700 bytes a latent.
"""

import time
from pathlib import PurePath
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int32

from sparserm_cli.config import FrequencyConfig, Note, Progress
from sparserm_cli.data.splits import validation_mask
from sparserm_cli.errors import BadInputError
from sparserm_cli.stages.measures import measure
from sparserm_cli.stages.tally import FOLDS, STRATA, Cohort, Tally, class_totals, make_cohort
from sparserm_cli.store.activations import ActivationsReader, open_capture
from sparserm_cli.store.chain import is_made
from sparserm_cli.store.features import FeaturesReader, features_path
from sparserm_cli.store.frequency import (
    TYPE,
    VERSION,
    Frequency,
    Measures,
    Totals,
    frequency_path,
    read_frequency,
    write_frequency,
)
from sparserm_cli.store.lineage import Lineage
from sparserm_cli.store.locks import run_lock


class FrequencySummary(NamedTuple):
    """What `frequency` has done.

    Fields:
        path: where the table is.
        frequency: the table, as it was written.
        left_out: pairs kept out of the rates, for validation or because a response has no features.
        seconds: spent on counting.
        fresh: whether the table was there already.
    """

    path: PurePath
    frequency: Frequency
    left_out: int
    seconds: float
    fresh: bool


def frequency(config: FrequencyConfig, *, progress: Progress, note: Note) -> FrequencySummary:
    """Count the latents of every encoded layer over the pairs that are not for validation, unless it is done.

    Args:
        config: the options.
        progress: called with tokens counted and tokens in all, counted once a layer.
        note: told what is worth knowing on the way.

    Raises:
        BadInputError: no pair is left to count.
        IncompatibleError: no complete features, or they are not of the activations that are there.
        CorruptStoreError: features or activations are damaged.
        ResourceError: the disk is full.
        TemporaryError: another run holds the directory.

    """
    begun = time.monotonic()
    # 1. The features, made from the activations that are there.
    capture = open_capture(config.run)
    features = FeaturesReader(features_path(config.run))
    features.check_parent(capture.lineage.as_parent())
    # 2. Who is counted: the pairs of training prompts.
    kept = counted_pairs(capture, config.val_fraction, config.seed)
    if not kept.any():
        found = f"none of {len(kept)}"
        hint = "use more data or a smaller --val-fraction"
        raise BadInputError(str(capture.root), "pairs to count", found, hint)
    left_out = int((~kept).sum())
    if left_out:
        note(f"{left_out:,} of {len(kept):,} pairs are kept out of the rates (validation prompts)")
    settings = {"unit": config.unit, "val_fraction": config.val_fraction, "seed": config.seed}
    identity = {**settings, "folds": FOLDS, "strata": STRATA}
    lineage = Lineage(TYPE, VERSION, identity, {"features": features.lineage.as_parent()})
    path = frequency_path(config.run)
    if is_made(config.run, lineage):
        note(f"{path.name} is up to date")
        table = read_frequency(config.run)
        return FrequencySummary(path, table, left_out, time.monotonic() - begun, fresh=True)
    # 3. One pass over each layer.
    cohort = training_cohort(capture, kept)
    lengths = capture.response_lengths
    total = int(lengths.sum()) * len(features.plan.layers)
    layers: dict[int, Measures] = {}
    done = 0
    with run_lock(config.run):
        for layer in features.plan.layers:
            counter = Tally(cohort, lengths, features.plan.sae(layer).d_sae, config.unit)
            for block in features.iter_blocks(layer, only_counts=True):
                ends = np.concatenate([[0], np.cumsum(block.lengths, dtype=np.int64)])
                counter.add(block.responses.start, block.csr.indptr[ends], block.csr.indices)
                done += int(block.lengths.sum())
                progress(done, total)
            layers[layer] = measure(counter.result())
        # 4. The table appears whole or not at all.
        totals = _totals(config, cohort, lengths)
        table = write_frequency(config.run, Frequency(lineage, config.unit, totals, layers))
    return FrequencySummary(path, table, left_out, time.monotonic() - begun, fresh=False)


def counted_pairs(capture: ActivationsReader, val_fraction: float, seed: int) -> Bool[np.ndarray, " pairs"]:
    """Return which pairs are for training: not of a validation prompt, both responses with vectors.

    `fit` splits by the same function, so no validation pair has had a part in the selection.
    """
    pairs, groups, present = capture.pairs(), capture.response_group(), capture.present()
    usable = present[pairs.chosen] & present[pairs.rejected]
    held_out = validation_mask(groups[pairs.chosen], val_fraction, seed)
    return np.asarray(usable & ~held_out)


def training_cohort(capture: ActivationsReader, kept: Bool[np.ndarray, " pairs"]) -> Cohort:
    """Class the responses of the pairs that are kept.

    Prompts go to folds by the rank of their group key, which is a hash: random, even, and the same in any
    order of the data.
    """
    pairs = capture.pairs()
    _, rank = np.unique(capture.prompt_group(), return_inverse=True)
    folds = (rank % FOLDS).astype(np.uint8)[capture.rows.response_prompt]
    both = np.stack([pairs.chosen[kept], pairs.rejected[kept]], axis=1)
    return make_cohort(capture.response_lengths, capture.response_group(), folds, both)


def _totals(config: FrequencyConfig, cohort: Cohort, lengths: Int32[np.ndarray, " responses"]) -> Totals:
    """Return what the rates are shares of."""
    tokens, responses = class_totals(cohort, lengths)
    by_fold = (tokens if config.unit == "token" else responses).sum(axis=1)
    sides = [(int(one[0]), int(one[1])) for one in (tokens.sum(axis=(0, 1)), responses.sum(axis=(0, 1)))]
    return Totals(
        tokens=sides[0],
        responses=sides[1],
        pairs=len(cohort.pairs),
        prompts=round(float(cohort.pair_weight.sum())),
        fold_total=tuple((int(chosen), int(rejected)) for chosen, rejected in by_fold),
    )
