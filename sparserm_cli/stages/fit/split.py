"""The pairs of a fit, and which of them train and which validate.

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
    """Responses of the pairs, as numbers of the capture."""
    pairs: Int64[np.ndarray, "m 2"]
    """Chosen and rejected response of each pair, as places in `rows`."""
    validation: Bool[np.ndarray, " m"]
    """Pairs of validation prompts."""
    groups: UInt64[np.ndarray, " m"]
    """Prompt of each pair."""

    def subset(self, kept: Int64[np.ndarray, " kept"]) -> "Split":
        """Return a split of some of the pairs, with all responses."""
        return Split(self.rows, self.pairs[kept], self.validation[kept], self.groups[kept])

    def subsample(self, most: int, seed: int) -> "Split":
        """Return a split of at most so many pairs, drawn at random; `rows` is cut to theirs."""
        if len(self.pairs) <= most:
            return self
        kept = np.sort(np.random.default_rng(seed).choice(len(self.pairs), most, replace=False))
        places, pairs = np.unique(self.pairs[kept], return_inverse=True)
        return Split(self.rows[places], pairs.reshape(-1, 2), self.validation[kept], self.groups[kept])


def split_pairs(capture: ActivationsReader, val_fraction: float, seed: int) -> Split:
    """Split the pairs whose responses have vectors, as `frequency` does.

    Raises:
        BadInputError: one of the two parts would be empty.

    """
    pairs, groups, present = capture.pairs(), capture.response_group(), capture.present()
    usable = present[pairs.chosen] & present[pairs.rejected]
    training = counted_pairs(capture, val_fraction, seed)
    validation = usable & ~training
    for name, mask in (("training", training), ("validation", validation)):
        if not mask.any() and (name == "training" or val_fraction > 0):
            found = f"none of {int(usable.sum())}"
            hint = "use more data or another --val-fraction"
            raise BadInputError(str(capture.root), f"pairs of {name} prompts", found, hint)
    both = np.stack([pairs.chosen, pairs.rejected], axis=1)[usable]
    rows, places = np.unique(both, return_inverse=True)
    return Split(rows, places.reshape(-1, 2), validation[usable], groups[pairs.chosen][usable])
