"""The guarded scores of responses.

Axes: n (responses), p (projections).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from sparserm_cli.config import ScoreLimits
from sparserm_cli.models.head.attribution import Method


class Rewards(NamedTuple):
    """The rewards of some responses.

    Fields:
        scores: one per response, NaN where it abstains.
        ood: distance of each response from the training responses, of which 99 % are below 1.
        tokens: one reward per token of each response, which add up to its score; None where it abstains.
        method: method of the token rewards and parts, of which only `exact` adds up exactly; None if neither
            was requested.
        parts: what each group of directions adds to each score, by name; None where it abstains.
        projections: standardised projections of each response; None if they were not kept.
    """

    scores: Float32[np.ndarray, " n"]
    ood: Float32[np.ndarray, " n"]
    tokens: tuple[Float32[np.ndarray, " _"] | None, ...] = ()
    method: Method | None = None
    parts: tuple[Mapping[str, float] | None, ...] = ()
    projections: Float32[np.ndarray, "n p"] | None = None

    def split(self, counts: Sequence[int]) -> Iterator["Rewards"]:
        """Yield the rewards of the first `counts[0]` responses, of the next `counts[1]`, and so on."""
        start = 0
        for count in counts:
            at = slice(start, start + count)
            x = None if self.projections is None else self.projections[at]
            yield Rewards(self.scores[at], self.ood[at], self.tokens[at], self.method, self.parts[at], x)
            start += count

    def guarded(self, guards: ScoreLimits) -> "Rewards":
        """Clip the scores, and abstain where a response is too far from the training responses."""
        kept = np.ones(len(self.ood), bool) if guards.abstain is None else self.ood <= guards.abstain
        bound = np.inf if guards.clip is None else guards.clip
        clipped = np.clip(self.scores, -bound, bound)
        # Where the score was clipped, its parts are scaled down with it, so that they still add up.
        changed = np.divide(clipped, self.scores, out=np.ones(len(clipped)), where=clipped != self.scores)
        shrunk = [float(share) if keep else None for share, keep in zip(changed, kept, strict=True)]
        tokens = tuple(
            None if share is None or values is None else values if share == 1 else values * np.float32(share)
            for values, share in zip(self.tokens, shrunk, strict=False)
        )
        parts = tuple(
            None if share is None or row is None else {name: part * share for name, part in row.items()}
            for row, share in zip(self.parts, shrunk, strict=False)
        )
        scores = np.where(kept, clipped, np.float32(np.nan))
        return self._replace(scores=scores, tokens=tokens, parts=parts)
