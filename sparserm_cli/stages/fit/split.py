"""The pairs of a fit, split into training and validation pairs.

Axes: `n` responses, `m` pairs.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, UInt64

from sparserm_cli.errors import BadInputError
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

    def subset(self, kept: Int64[np.ndarray, " kept"]) -> "Split":
        """Return the split restricted to the pairs at the indices `kept`, with all responses."""
        return Split(self.rows, self.pairs[kept], self.validation[kept], self.groups[kept])

    def subsample(self, most: int, seed: int) -> "Split":
        """Return the split restricted to at most `most` random pairs and to their responses."""
        if len(self.pairs) <= most:
            return self
        kept = np.sort(np.random.default_rng(seed).choice(len(self.pairs), most, replace=False))
        places, pairs = np.unique(self.pairs[kept], return_inverse=True)
        return Split(self.rows[places], pairs.reshape(-1, 2), self.validation[kept], self.groups[kept])


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
    return Split(rows, places.reshape(-1, 2), validation[usable], groups[pairs.chosen][usable])
