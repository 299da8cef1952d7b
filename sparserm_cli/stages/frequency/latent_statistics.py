"""Statistics per latent from counts of firing on chosen and rejected responses."""

import numpy as np

from sparserm_cli.stages.frequency.firing_counts import Counts
from sparserm_cli.statistics.rates import (
    mcnemar_z,
    mutual_information,
    q_values,
    shares,
    standardised_difference,
    stratified_difference,
    two_proportion_z,
    two_sided_p,
    wilson_interval,
)
from sparserm_cli.store.artifacts.frequency import LatentStatistics


def statistics_of(counts: Counts) -> LatentStatistics:
    """Turn the firing counts of one layer into the statistics of each latent."""
    by_class, of_class = counts.classed.astype(np.float64), counts.classed_total.astype(np.float64)
    rate = shares(by_class.sum(axis=(0, 1)), of_class.sum(axis=(0, 1))[:, None])
    low, high = wilson_interval(rate, counts.responses_total[:, None].astype(np.float64))
    z = two_proportion_z(counts.responses, counts.responses_total)
    mcnemar = mcnemar_z(counts.discordant)
    fold_rate = shares(by_class.sum(axis=1), of_class.sum(axis=1)[:, :, None])
    return LatentStatistics(
        rate=rate,
        low=low,
        high=high,
        responses=counts.responses,
        fold_rate=np.ascontiguousarray(fold_rate.transpose(1, 2, 0), np.float32),
        difference=rate[0] - rate[1],
        standardised=standardised_difference(rate),
        length_controlled=stratified_difference(by_class.sum(axis=0), of_class.sum(axis=0)),
        z=z,
        q=q_values(two_sided_p(z)),
        mcnemar=mcnemar,
        mcnemar_q=q_values(two_sided_p(mcnemar)),
        mutual_information=mutual_information(counts.responses, counts.responses_total),
    )
