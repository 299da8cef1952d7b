"""Sink tokens and the shuffle buffer."""

import itertools

import pytest
import torch

from sparserm_cli.errors import BadInputError
from sparserm_cli.models.sae.quality import SinkRule
from sparserm_cli.models.sae.training.shuffle_buffer import ShuffleBuffer


def test_sinks_are_told_by_ten_times_the_median_norm() -> None:
    """Norms 1, 1, 1, 10, 11: the median is 1, so only the last is a sink."""
    rows = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, 10], [0, 11]])
    rule = SinkRule.fit(rows)
    assert rule == SinkRule(1.0, 10.0)
    assert rule.keeps(rows).tolist() == [True, True, True, True, False]


def test_small_source_is_held_whole_and_every_epoch_sees_each_row_once() -> None:
    """Eight rows in batches of four: two batches are one epoch, in another order each time."""
    rows = torch.arange(8.0).unsqueeze(1)
    buffer = ShuffleBuffer(lambda: [rows[:3], rows[3:]], capacity=100, batch_rows=4, seed=0)
    assert buffer.holds_all
    epochs = [torch.cat(list(itertools.islice(iter(buffer), 2))).flatten().tolist() for _ in range(3)]
    assert all(sorted(epoch) == list(range(8)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_large_source_never_holds_more_than_its_capacity_and_restarts() -> None:
    """100 rows through a buffer of 10: all come by, again and again, and the buffer keeps its size."""
    rows = torch.arange(100.0).unsqueeze(1)
    passes = []

    def source() -> list[torch.Tensor]:
        passes.append(1)
        return list(rows.split(7))

    buffer = ShuffleBuffer(source, capacity=10, batch_rows=5, seed=1)
    assert not buffer.holds_all
    seen = [batch.flatten().tolist() for batch in itertools.islice(iter(buffer), 60)]
    assert len(buffer.rows) == 10
    assert len(passes) >= 3
    assert set(itertools.chain.from_iterable(seen)) == set(range(100))
    assert len(set(itertools.chain.from_iterable(seen[:18]))) == 90


def test_fewer_rows_than_a_batch_are_repeated() -> None:
    """Three rows fill a batch of eight."""
    buffer = ShuffleBuffer(lambda: [torch.eye(3)], capacity=100, batch_rows=8, seed=0)
    batch = next(iter(buffer))
    assert batch.shape == (8, 3)
    assert (batch.sum(dim=1) == 1).all()


def test_equal_seeds_give_equal_batches() -> None:
    """The order depends on the seed alone."""
    rows = torch.randn(50, 2)
    first, second, other = (
        torch.cat(
            list(itertools.islice(iter(ShuffleBuffer(lambda: [rows], capacity=20, batch_rows=5, seed=s)), 9))
        )
        for s in (3, 3, 4)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_no_rows_are_refused() -> None:
    """A source without tokens is named as the trouble."""
    with pytest.raises(BadInputError, match="training data: expected tokens to train on, found none"):
        ShuffleBuffer(list, capacity=10, batch_rows=5, seed=0)
