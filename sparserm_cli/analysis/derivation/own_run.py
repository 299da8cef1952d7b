"""The run in which a reward model was fitted, where it is still there: its pairs, and its fit done again.

Reads: the pooled vectors of `activations.zarr`. Memory: two copies of the projections of all pairs.

Axes: `n` responses of the pairs, `p` projections.
"""

from dataclasses import replace
from pathlib import PurePath
from typing import NamedTuple, Self

import numpy as np
from jaxtyping import Bool, Float32, Float64

from sparserm_cli.analysis.derivation.change import AFTER, BEFORE, Change, ScoredPairs, change_of
from sparserm_cli.analysis.derivation.factors import columns_of, with_factors
from sparserm_cli.config import HeadSetting
from sparserm_cli.errors import IncompatibleError
from sparserm_cli.models.head.projections import projections
from sparserm_cli.stages.fit.controls import FittedHead, fit_projections
from sparserm_cli.stages.fit.measures import REWARD, metrics_of, probe_of, scores_of_heads
from sparserm_cli.stages.fit.split import Split, split_pairs, weighted_by_margin
from sparserm_cli.store.artifacts.head_arrays import HeadArrays
from sparserm_cli.store.artifacts.reward import RewardConfig, RewardFiles
from sparserm_cli.store.capture.artifact import open_capture
from sparserm_cli.store.capture.reader import ActivationsReader

_RELATIVE, _ABSOLUTE = 1e-3, 1e-4
"""Two fits whose weights differ by no more than this are the same fit on machines that round differently."""


class OwnRun(NamedTuple):
    """The pairs of the run in which a reward model was fitted.

    Fields:
        capture: the activations.
        split: training and validation pairs, as the fit divided them.
        taken: projections of the responses of the pairs on the reward model's directions.
        files: the reward model.
    """

    capture: ActivationsReader
    split: Split
    taken: Float32[np.ndarray, "n p"]
    files: RewardFiles

    @classmethod
    def find(cls, run: PurePath, files: RewardFiles) -> Self | None:
        """Return the pairs of a run directory if the reward model was fitted on its activations.

        Raises:
            CorruptStoreError: the activations are damaged.

        """
        recorded = files.config.lineage.parents.get("activations")
        try:
            capture = open_capture(run)
        except IncompatibleError:
            return None
        if recorded is None or recorded.digest != capture.lineage.digest:
            return None
        config, rows = files.config, files.head.directions
        split = split_pairs(capture, config.val_fraction, config.seed)
        if config.lineage.identity.get("weights") == "margin":
            split, _ = weighted_by_margin(split, capture)
        taken = projections(capture, config.layers, config.pool, rows, split.rows)
        return cls(capture, split, taken, files)

    def fitted(self, kept: Bool[np.ndarray, " p"]) -> FittedHead:
        """Fit the head again, with the settings of its fit, without some of its projections.

        Args:
            kept: mask of the projections that take part; the others are held at their means.

        """
        config, old = self.files.config, self.files.head
        setting = HeadSetting(config.pool, config.head, config.loss, config.plain)  # type: ignore[arg-type]
        taken = np.where(kept, self.taken, old.mean)
        again = fit_projections(self.split, taken, setting, config.seed, old.directions)
        # Means and deviations stay those of all projections, by which the distance is measured.
        final, validated = (
            with_factors(replace(head, mean=old.mean, std=old.std), kept.astype(np.float64))
            for head in (again.final, again.validated)
        )
        return FittedHead(final, validated, again.facts)

    def before_validation(self, names: list[str]) -> HeadArrays | None:
        """Return the reward model's head as it was before it was fitted on the validation pairs too.

        It is fitted and edited again as it is recorded. None means that this does not give the stored head:
        the reward model was adapted since, or another machine rounds otherwise.

        Args:
            names: name of the direction of each projection.

        """
        factors = kept = np.ones(len(names))
        for step in self.files.config.derivation:
            if step.get("by") != "edit":
                return None
            factors = factors * columns_of(step["factors"], names)
            if step["refit"]:
                factors = kept = (factors != 0).astype(np.float64)
        again = self.fitted(kept != 0)
        final = with_factors(again.final, factors).weights
        stored = self.files.head.weights
        same = all(np.allclose(final[name], stored[name], _RELATIVE, _ABSOLUTE) for name in stored)
        return with_factors(again.validated, factors) if same else None

    def change(self, before: HeadArrays, after: HeadArrays, *, held_out: bool) -> Change | None:
        """Compare two heads on the validation pairs; None if there are none."""
        capture, split = self.capture, self.split
        if not split.validation.any():
            return None
        scores = scores_of_heads(self.files.config, capture, {BEFORE: before, AFTER: after}, split)
        pairs, stored, present = split.pairs[split.validation], capture.pairs(), capture.present()
        rows = stored.row[present[stored.chosen] & present[stored.rejected]][split.validation]
        lengths = capture.response_lengths.astype(np.int64)[split.rows]
        members = np.unique(pairs)
        return change_of(
            ScoredPairs(
                {name: scores[name][members] for name in (BEFORE, AFTER)},
                {name: _gap(scores[name], pairs) for name in (BEFORE, AFTER)},
                _gap(lengths, pairs),
                split.groups[split.validation],
                rows,
            ),
            held_out=held_out,
        )

    def recorded(self, config: RewardConfig, final: HeadArrays, judged: HeadArrays | None) -> RewardConfig:
        """Return the record of a changed head: its accuracies, the spread of its scores, and its probe.

        Args:
            config: the record, which still has the accuracies of the old head and of the controls.
            final: the head that is stored.
            judged: the same before it was fitted on the validation pairs; None if there is no such head.

        """
        split = self.split
        scores = scores_of_heads(config, self.capture, {REWARD: final}, split)
        own = {REWARD: scores[REWARD]}
        metrics = metrics_of("train", own, split, np.ones(len(split.pairs), bool))
        if judged is not None:
            held_out = scores_of_heads(config, self.capture, {REWARD: judged}, split)
            metrics = metrics_of("validation", {REWARD: held_out[REWARD]}, split, split.validation) + metrics
        return replace(
            config,
            metrics=(*metrics, *(metric for metric in config.metrics if metric.scorer != REWARD)),
            score_mean=float(own[REWARD].mean()),
            score_std=float(own[REWARD].std()) or 1.0,
            probe=probe_of(self.capture, split, self.taken, final),
        )


def _gap(values: Float64[np.ndarray, " n"] | np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return the chosen value less the rejected one of each pair."""
    return values[pairs[:, 0]] - values[pairs[:, 1]]
