"""Activations as SAE training wants them: shuffled, within a stated amount of memory.

Axes: rows (tokens), d_in (width of the residual stream).
"""

from collections.abc import Callable, Iterable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from sparserm_cli.errors import BadInputError


class ShuffleBuffer:
    """Batches of activations in random order, forever.

    The whole source is held if it fits, and every epoch is a fresh permutation. Of a larger source the buffer
    holds `capacity` rows; half of them leave at random, then it is filled again, from the start of the source
    when its end has come. While it is filled, half of that memory is needed a second time.

    Args:
        source: starts one pass over the training activations; each pass yields blocks (rows, d_in).
        capacity: most rows held, in bfloat16.
        batch_rows: number of rows per batch.
        seed: seed of the order.

    Attributes:
        rows: what is held now, bfloat16 (rows, d_in).
        holds_all: whether that is the whole source.

    """

    def __init__(
        self,
        source: Callable[[], Iterable[Float[Tensor, "_ d_in"]]],
        *,
        capacity: int,
        batch_rows: int,
        seed: int,
    ) -> None:
        self._source, self._batch_rows = source, batch_rows
        self._capacity = max(capacity, 2 * batch_rows)
        self._generator = torch.Generator().manual_seed(seed)
        self._blocks = iter(source())
        self._left: Tensor | None = None
        self.rows = torch.empty(0, dtype=torch.bfloat16)
        self.holds_all = not self._fill(0, restart=False)
        if len(self.rows) == 0:
            raise BadInputError("training data", "tokens to train on", "none", "give more data")

    def __iter__(self) -> Iterator[Float[Tensor, "batch_rows d_in"]]:
        """Yield float32 batches; a source of fewer rows than a batch repeats rows within it."""
        while True:
            order = torch.randperm(len(self.rows), generator=self._generator)
            while len(order) < self._batch_rows:
                order = torch.cat([order, torch.randperm(len(self.rows), generator=self._generator)])
            half = len(order) // 2 // self._batch_rows * self._batch_rows
            leaving = len(order) if self.holds_all else half
            for start in range(0, leaving - self._batch_rows + 1, self._batch_rows):
                yield self.rows[order[start : start + self._batch_rows]].float()
            if not self.holds_all:
                staying = order[leaving:]
                self.rows[: len(staying)] = self.rows[staying]
                self._fill(len(staying), restart=True)

    def _fill(self, filled: int, *, restart: bool) -> bool:
        """Overwrite the rows from `filled` on with blocks; return whether those filled the buffer."""
        while filled < self._capacity:
            block = self._left if self._left is not None else next(self._blocks, None)
            self._left = None
            if block is None:
                if not restart:
                    self.rows = self.rows[:filled]
                    return False
                self._blocks = iter(self._source())
                continue
            if not len(self.rows):  # memory is only touched as rows come in
                self.rows = torch.empty(self._capacity, block.shape[1], dtype=torch.bfloat16)
            taken = min(len(block), self._capacity - filled)
            self.rows[filled : filled + taken] = block[:taken].to("cpu")
            self._left = block[taken:] if taken < len(block) else None
            filled += taken
        return True
