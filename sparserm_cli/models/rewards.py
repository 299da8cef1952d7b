"""The guarded scores of responses.

Axes: n (responses), p (projections).
"""

from collections.abc import Iterator, Sequence
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
        method: method of the token rewards, of which only `exact` adds up exactly; None if not requested.
        projections: standardised projections of each response; None if they were not kept.
    """

    scores: Float32[np.ndarray, " n"]
    ood: Float32[np.ndarray, " n"]
    tokens: tuple[Float32[np.ndarray, " _"] | None, ...] = ()
    method: Method | None = None
    projections: Float32[np.ndarray, "n p"] | None = None

    def split(self, counts: Sequence[int]) -> Iterator["Rewards"]:
        """Yield the rewards of the first `counts[0]` responses, of the next `counts[1]`, and so on."""
        start = 0
        for count in counts:
            at = slice(start, start + count)
            kept = None if self.projections is None else self.projections[at]
            yield Rewards(self.scores[at], self.ood[at], self.tokens[at], self.method, kept)
            start += count

    def guarded(self, guards: ScoreLimits) -> "Rewards":
        """Clip the scores, and abstain where a response is too far from the training responses."""
        kept = np.ones(len(self.ood), bool) if guards.abstain is None else self.ood <= guards.abstain
        bound = np.inf if guards.clip is None else guards.clip
        clipped = np.clip(self.scores, -bound, bound)
        tokens = tuple(
            # Where the score was clipped, its parts are scaled down with it, so that they still add up.
            (share if share is None or new == old else share * (new / old)) if keep else None
            for share, old, new, keep in zip(self.tokens, self.scores, clipped, kept, strict=False)
        )
        return self._replace(scores=np.where(kept, clipped, np.float32(np.nan)), tokens=tokens)
