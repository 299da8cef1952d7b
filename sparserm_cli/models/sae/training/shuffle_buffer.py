"""Shuffled activations for SAE training, within a fixed amount of memory.

Axes: rows (tokens), d_in (width of the residual stream).
"""

from collections.abc import Callable, Iterable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from sparserm_cli.errors import BadInputError


class ShuffleBuffer:
    """An endless series of batches of activations in random order.

    The whole source is held if it fits, and every epoch is a new permutation. Of a larger source the buffer
    holds `capacity` rows. When half of them have left at random, it is filled again, from the start of the
    source after its end. Filling needs half of that memory a second time.

    Args:
        source: function that starts one pass over the training activations; a pass yields blocks (rows,
            d_in).
        capacity: largest number of rows held, in bfloat16.
        batch_rows: number of rows per batch.
        seed: seed of the order.

    Attributes:
        rows: the rows that are held now, bfloat16 (rows, d_in).
        holds_all: whether these are the whole source.

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
        """Yield float32 batches; if the source has fewer rows than a batch, rows repeat within a batch."""
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
        """Overwrite the rows from `filled` on with blocks; return whether the blocks filled the buffer."""
        while filled < self._capacity:
            block = self._left if self._left is not None else next(self._blocks, None)
            self._left = None
            if block is None:
                if not restart:
                    self.rows = self.rows[:filled]
                    return False
                self._blocks = iter(self._source())
                continue
            if not len(self.rows):  # memory is touched only as rows come in
                self.rows = torch.empty(self._capacity, block.shape[1], dtype=torch.bfloat16)
            taken = min(len(block), self._capacity - filled)
            self.rows[filled : filled + taken] = block[:taken].to("cpu")
            self._left = block[taken:] if taken < len(block) else None
            filled += taken
        return True
