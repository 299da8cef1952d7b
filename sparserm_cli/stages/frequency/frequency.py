"""`frequency`: count how often each latent fires on chosen and on rejected responses.

Reads: `features.zarr`, `activations.zarr` (its plan and rows). Writes: `frequency.parquet`.
Memory: one unit of features, some blocks of rows, and 700 bytes per latent; pairs are sorted on the disk. The
SAE is in memory as well where the mean vector of each response is counted.
"""

import time
from pathlib import PurePath
from typing import NamedTuple

from sparserm_cli.config import FrequencyConfig, Note, Progress
from sparserm_cli.errors import BadInputError
from sparserm_cli.stages.frequency.counted_responses import FOLDS, STRATA
from sparserm_cli.stages.frequency.fires import ONE_VECTOR, as_one_vector, iter_fires
from sparserm_cli.stages.frequency.firing_counts import Counts, FiringCounter
from sparserm_cli.stages.frequency.latent_statistics import statistics_of
from sparserm_cli.stages.frequency.unit_responses import Rule, UnitResponses
from sparserm_cli.store.arrays.external_sort import ScratchFolder
from sparserm_cli.store.artifacts.frequency import (
    TYPE,
    VERSION,
    Frequency,
    LatentStatistics,
    Totals,
    frequency_path,
    read_frequency,
    write_frequency,
)
from sparserm_cli.store.capture.artifact import open_capture
from sparserm_cli.store.features.artifact import features_path
from sparserm_cli.store.features.reader import FeaturesReader
from sparserm_cli.store.io.atomic import sweep
from sparserm_cli.store.io.storage import storage_of
from sparserm_cli.store.provenance import Lineage
from sparserm_cli.store.run.artifacts import is_made
from sparserm_cli.store.run.locks import run_lock


class FrequencySummary(NamedTuple):
    """The result of `frequency`.

    Fields:
        path: path of the table.
        frequency: the table as it was written.
        left_out: number of pairs left out of the rates, for validation or because a response has no features.
        seconds: duration of the counting in seconds.
        fresh: whether the table was up to date already.
    """

    path: PurePath
    frequency: Frequency
    left_out: int
    seconds: float
    fresh: bool


def frequency(config: FrequencyConfig, *, progress: Progress, note: Note) -> FrequencySummary:
    """Count the firing latents of every encoded layer over the training pairs, unless the run has the counts.

    Args:
        config: the options.
        progress: called with tokens counted and tokens in all, where each token counts once per layer.
        note: called with each message for the user.

    Raises:
        BadInputError: no pair is left to count.
        IncompatibleError: there are no complete features, they were made from other activations, or their SAE
            is to encode mean vectors and has changed.
        CorruptStoreError: features or activations are damaged.
        ResourceError: the disk is full.
        TemporaryError: another run holds the directory.

    """
    begun = time.monotonic()
    # 1. Read the features, and check that they were made from the present activations.
    capture = open_capture(config.run)
    features = FeaturesReader(features_path(config.run))
    features.check_parent(capture.lineage.as_parent())
    settings = {"unit": config.unit, "val_fraction": config.val_fraction, "seed": config.seed}
    identity = {**settings, "folds": FOLDS, "strata": STRATA}
    lineage = Lineage(TYPE, VERSION, identity, {"features": features.lineage.as_parent()})
    path, pairs = frequency_path(config.run), capture.plan.layout.pairs
    if is_made(config.run, lineage):
        note(f"{path.name} is up to date")
        table = read_frequency(config.run)
        left_out = pairs - table.totals.pairs
        return FrequencySummary(path, table, left_out, time.monotonic() - begun, fresh=True)
    with run_lock(config.run), ScratchFolder(storage_of(path.with_name("pairs")).part_name()) as scratch:
        sweep(config.run, everything=False)
        # 2. Find the pairs of training prompts, which are counted.
        rule = Rule(capture.rejected, config.val_fraction, config.seed)
        counted_by_unit = UnitResponses(capture.rows, rule, scratch)
        if not counted_by_unit.pairs:
            found, hint = f"none of {pairs}", "use more data or a smaller --val-fraction"
            raise BadInputError(str(capture.root), "pairs to count", found, hint)
        left_out = pairs - counted_by_unit.pairs
        if left_out:
            note(f"{left_out:,} of {pairs:,} pairs are kept out of the rates (validation prompts)")
        # 3. Count in one pass over each layer.
        total = capture.plan.layout.response_tokens * len(features.plan.layers)
        layers: dict[int, LatentStatistics] = {}
        done = 0
        for layer in features.plan.layers:
            counter = FiringCounter(features.plan.sae(layer).d_sae, config.unit, counted_by_unit.longest)
            for fires in iter_fires(capture, features, layer, config.unit):
                responses = counted_by_unit.of(fires.unit)
                if config.unit in ONE_VECTOR:
                    responses = as_one_vector(responses)
                counter.add(responses, fires.indptr, fires.indices)
                done += fires.tokens
                progress(done, total)
            counts = counter.result()
            layers[layer] = statistics_of(counts)
        # 4. Write the table, which appears whole or not at all.
        totals = _totals(counts, counted_by_unit.pairs)
        table = write_frequency(config.run, Frequency(lineage, config.unit, totals, layers))
    return FrequencySummary(path, table, left_out, time.monotonic() - begun, fresh=False)


def _totals(counts: Counts, pairs: int) -> Totals:
    """Return the totals that the rates are shares of; they are the same in every layer."""
    by_fold = counts.classed_total.sum(axis=1).tolist()
    return Totals(
        tokens=(int(counts.tokens_total[0]), int(counts.tokens_total[1])),
        responses=(int(counts.responses_total[0]), int(counts.responses_total[1])),
        pairs=pairs,
        prompts=round(counts.prompts),
        fold_total=tuple((chosen, rejected) for chosen, rejected in by_fold),
    )
