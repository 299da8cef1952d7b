"""The pairs of a fit, split into training and validation pairs.

Axes: `n` responses, `m` pairs.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt64

from sparserm_cli.errors import BadInputError, UsageError
from sparserm_cli.stages.frequency.unit_responses import counted_pairs
from sparserm_cli.store.capture.reader import ActivationsReader


class Split(NamedTuple):
    """The pairs of a fit, and their responses."""

    rows: Int64[np.ndarray, " n"]
    """Numbers, in the capture, of the responses of the pairs."""
    pairs: Int64[np.ndarray, "m 2"]
    """Chosen and rejected response of each pair, as indices into `rows`."""
    validation: Bool[np.ndarray, " m"]
    """Mask of the pairs of validation prompts."""
    groups: UInt64[np.ndarray, " m"]
    """Group key of the prompt of each pair."""
    weight: Float32[np.ndarray, " m"]
    """How much each pair counts in the losses; 1 on average over all pairs of the fit."""

    def subset(self, kept: Int64[np.ndarray, " kept"]) -> "Split":
        """Return the split restricted to the pairs at the indices `kept`, with all responses."""
        return self._replace(
            pairs=self.pairs[kept],
            validation=self.validation[kept],
            groups=self.groups[kept],
            weight=self.weight[kept],
        )

    def subsample(self, most: int, seed: int) -> "Split":
        """Return the split restricted to at most `most` random pairs and to their responses."""
        if len(self.pairs) <= most:
            return self
        kept = np.sort(np.random.default_rng(seed).choice(len(self.pairs), most, replace=False))
        places, pairs = np.unique(self.pairs[kept], return_inverse=True)
        return self.subset(kept)._replace(rows=self.rows[places], pairs=pairs.reshape(-1, 2))


def split_pairs(capture: ActivationsReader, val_fraction: float, seed: int) -> Split:
    """Split the pairs whose two responses have vectors, by the same rule as `frequency`.

    Raises:
        BadInputError: the training or the validation part would be empty.

    """
    pairs, groups, present = capture.pairs(), capture.response_group(), capture.present()
    usable = present[pairs.chosen] & present[pairs.rejected]
    training = counted_pairs(capture, val_fraction, seed)
    validation = usable & ~training
    for name, mask in (("training", training), ("validation", validation)):
        if not mask.any() and (name == "training" or val_fraction > 0):
            present_pairs = f"none of {int(usable.sum())}"
            hint = "use more data or another --val-fraction"
            raise BadInputError(str(capture.root), f"pairs of {name} prompts", present_pairs, hint)
    both = np.stack([pairs.chosen, pairs.rejected], axis=1)[usable]
    rows, places = np.unique(both, return_inverse=True)
    weight = np.ones(len(both), np.float32)
    return Split(rows, places.reshape(-1, 2), validation[usable], groups[pairs.chosen][usable], weight)


def weighted_by_margin(split: Split, capture: ActivationsReader) -> tuple[Split, dict[str, Any]]:
    """Let each pair of a split count by its margin.

    A pair counts its margin divided by the mean, so that the weights are 1 on average. A pair whose margin is
    not known counts 1. A pair whose margin is 0 or below, whose chosen response is not the better one by the
    data's own numbers, counts 0; accuracies still include it.

    Args:
        split: all pairs of the capture whose responses have vectors, in the order of the capture.
        capture: the activations.

    Returns:
        the split, and what a reward model records about its weights.

    Raises:
        UsageError: no pair of the capture has a margin, or no training pair has one above 0.

    """
    pairs, present = capture.pairs(), capture.present()
    margin = capture.rows.pair_margin[present[pairs.chosen] & present[pairs.rejected]]
    known = ~np.isnan(margin)
    if not known.any():
        hint = (
            "leave --weights out, or run `sparserm extract --force` on data with a column margin, or with "
            "scores of both responses"
        )
        raise UsageError("--weights margin", f"margins in {capture.root}", "none", hint)
    counted = np.where(known, np.maximum(margin, 0.0), 0.0)
    if not counted[~split.validation].any():
        hint = "leave --weights out"
        raise UsageError("--weights margin", "a training pair with a margin above 0", "none", hint)
    # The mean over known margins becomes 1, which is also what pairs without one count.
    weight = np.where(known, counted / counted[known].mean(), 1.0).astype(np.float32)
    facts = {
        "by": "margin",
        "mean_margin": float(counted[known].mean()),
        "unknown": int((~known).sum()),
        "not_above_0": int((margin <= 0).sum()),
    }
    return split._replace(weight=weight), facts
