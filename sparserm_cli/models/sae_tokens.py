"""Activations as SAE training wants them: without sink tokens, shuffled, within a stated amount of memory.

Axes: rows (tokens), d_in (width of the residual stream).
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Self

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparserm_cli.errors import BadInputError

SINK_FACTOR = 10.0
"""A token is a sink if its norm is more than this many times the median norm. Sinks exceed it 100-fold."""


class SinkRule(NamedTuple):
    """Which tokens are left out of training and of statistics because the model parks attention on them.

    Fields:
        median_norm: median Euclidean norm of the tokens that the rule was fitted on.
        factor: tokens with a norm of more than `factor * median_norm` are sinks.
    """

    median_norm: float
    factor: float = SINK_FACTOR

    @classmethod
    def fit(cls, activations: Float[Tensor, "rows d_in"]) -> Self:
        """Take the median norm of a sample, sinks included: a few of them do not move it."""
        return cls(float(activations.float().norm(dim=1).median()))

    def keeps(self, activations: Float[Tensor, "rows d_in"]) -> Bool[Tensor, " rows"]:
        """Return which rows are ordinary tokens."""
        return activations.float().norm(dim=1) <= self.factor * self.median_norm


class ShuffleBuffer:
    """Batches of activations in random order, forever.

    The whole source is held if it fits, and every epoch is a fresh permutation. Of a larger source the buffer
    holds `capacity` rows; half of them leave at random, then it is filled again, from the start of the source
    when its end has come.

    Args:
        source: starts one pass over the training activations; each pass yields blocks (rows, d_in).
        capacity: most rows held, in bfloat16.
        batch_rows: rows of a batch.
        seed: of the order.

    """

    def __init__(
        self,
        source: Callable[[], Iterable[Float[Tensor, "_ d_in"]]],
        *,
        capacity: int,
        batch_rows: int,
        seed: int,
    ) -> None:
        self._source, self._capacity, self._batch_rows = source, max(capacity, 2 * batch_rows), batch_rows
        self._generator = torch.Generator().manual_seed(seed)
        self._blocks = iter(source())
        self._left: Tensor | None = None
        self.rows, self._exhausted = self._fill(None)
        if len(self.rows) == 0:
            raise BadInputError("training data", "tokens to train on", "none", "give more data")

    @property
    def holds_all(self) -> bool:
        """Whether the buffer holds the whole source."""
        return self._exhausted

    def __iter__(self) -> Iterator[Float[Tensor, "batch_rows d_in"]]:
        """Yield float32 batches; a source of fewer rows than a batch repeats rows within it."""
        while True:
            order = torch.randperm(len(self.rows), generator=self._generator)
            while len(order) < self._batch_rows:
                order = torch.cat([order, torch.randperm(len(self.rows), generator=self._generator)])
            half = len(order) // 2 // self._batch_rows * self._batch_rows
            leaving = len(order) if self._exhausted else half
            for start in range(0, leaving - self._batch_rows + 1, self._batch_rows):
                yield self.rows[order[start : start + self._batch_rows]].float()
            if not self._exhausted:
                self.rows, _ = self._fill(self.rows[order[leaving:]])

    def _fill(self, kept: Tensor | None) -> tuple[Tensor, bool]:
        """Read blocks until the buffer is full; say whether the source ended before, on its first pass."""
        filled = 0 if kept is None else len(kept)
        rows = (
            torch.empty(0)
            if kept is None
            else torch.cat([kept, kept.new_empty(self._capacity - filled, kept.shape[1])])
        )
        while filled < self._capacity:
            block = self._left if self._left is not None else next(self._blocks, None)
            self._left = None
            if block is None and kept is None:
                return rows[:filled], True
            if block is None:
                self._blocks = iter(self._source())
                continue
            if not filled:  # memory is only touched as rows come in
                rows = torch.empty(self._capacity, block.shape[1], dtype=torch.bfloat16)
            taken = min(len(block), self._capacity - filled)
            rows[filled : filled + taken] = block[:taken].to("cpu")
            self._left = block[taken:] if taken < len(block) else None
            filled += taken
        return rows, False
