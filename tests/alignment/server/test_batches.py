"""The queue before the model: what is computed together, what is refused, and whose failure is whose."""

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from sparserm_cli.alignment.server.batches import Batcher, FullError, Kind
from sparserm_cli.data.example import Example
from sparserm_cli.data.rendering.row_tokenizer import TokenizedExample, TokenizedResponse
from sparserm_cli.models.reward_model import Rewards


def row(prompt: list[int], response: list[int]) -> TokenizedExample:
    """Make a tokenised row."""
    ids = (np.array(ids, np.uint32) for ids in (prompt, response))
    return TokenizedExample(
        Example(1, None, "", ("",), (0,), None, {}), "", (TokenizedResponse(*ids, False, 0, False),)
    )


class Model:
    """Scores a row by the sum of its response ids; id 13 cannot be scored. Holds until told to go on."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.kinds: list[bool] = []
        self.entered, self.go = threading.Semaphore(0), threading.Event()

    def __call__(self, rows: Sequence[TokenizedExample], kind: Kind) -> Rewards:
        """Wait, then score."""
        self.batches.append(len(rows))
        self.kinds.append(kind.by_token)
        self.entered.release()
        assert self.go.wait(10)
        ids = [row.responses[0].response_ids for row in rows]
        if any(13 in response_ids for response_ids in ids):
            raise ArithmeticError("unlucky")
        scores = np.array([response_ids.sum() for response_ids in ids], np.float32)
        return Rewards(scores, np.zeros(len(rows), np.float32))


@pytest.fixture
def model() -> Model:
    """Give a model that holds."""
    return Model()


@pytest.fixture
def batcher(model: Model) -> Iterator[Batcher]:
    """Give a batcher with a first job in the model's hands, so that what comes next waits together."""
    made = Batcher(model, most_waiting=100, batch_tokens=50)
    first = made.submit([row([0], [0])])
    assert model.entered.acquire(timeout=10)
    yield made
    model.go.set()
    first.result(10)
    made.close()


def results(futures: Sequence[Any]) -> list[list[float]]:
    """Wait for all."""
    return [future.result(10).scores.tolist() for future in futures]


def test_what_waits_is_computed_together_and_told_apart(batcher: Batcher, model: Model) -> None:
    """Three requests, one batch; each gets its own scores in its order."""
    futures = [batcher.submit([row([1], [n]), row([1], [n + 1])]) for n in (2, 4, 6)]
    model.go.set()
    assert results(futures) == [[2, 3], [4, 5], [6, 7]]
    assert model.batches == [1, 6]


def test_a_shared_prompt_counts_once(batcher: Batcher, model: Model) -> None:
    """Forty prompt tokens: ten requests fit into fifty tokens if they share it, one if they do not."""
    prompt = list(range(100, 140))
    futures = [batcher.submit([row(prompt, [1])]) for _ in range(2)]
    model.go.set()
    results(futures)
    assert model.batches == [1, 2]
    model.go.clear()
    hold = batcher.submit([row([0], [0])])
    assert model.entered.acquire(timeout=10)
    assert model.entered.acquire(timeout=10)
    others = [batcher.submit([row([n, *prompt], [1])]) for n in range(2)]
    model.go.set()
    results([hold, *others])
    assert model.batches == [1, 2, 1, 1, 1]


def test_row_43_what_is_too_much_is_refused(batcher: Batcher) -> None:
    """A hundred tokens may wait; a first job may be larger than that."""
    big = batcher.submit([row([1], [2] * 150)])
    assert batcher.waiting == 151
    with pytest.raises(FullError):
        batcher.submit([row([1], [2])])
    assert not big.done()


def test_row_45_what_nobody_waits_for_is_not_computed(batcher: Batcher, model: Model) -> None:
    """A cancelled job is left out; the others are computed."""
    gone, there = batcher.submit([row([1], [5])]), batcher.submit([row([1], [6])])
    assert gone.cancel()
    model.go.set()
    assert results([there]) == [[6]]
    assert model.batches == [1, 1]


def test_only_the_guilty_request_fails(batcher: Batcher, model: Model) -> None:
    """A batch that fails is computed again, request by request."""
    good, bad, fine = (batcher.submit([row([1], [n])]) for n in (5, 13, 6))
    model.go.set()
    assert results([good, fine]) == [[5], [6]]
    with pytest.raises(ArithmeticError, match="unlucky"):
        bad.result(10)
    assert model.batches == [1, 3, 1, 1, 1]


def test_token_rewards_are_batched_by_themselves(batcher: Batcher, model: Model) -> None:
    """Requests of another kind wait for the next batch."""
    futures = [batcher.submit([row([1], [2])], Kind(by_token=kind)) for kind in (False, False, True, False)]
    model.go.set()
    results(futures)
    assert model.batches == [1, 2, 1, 1]
    assert model.kinds == [False, False, True, False]


def test_closing_computes_what_waits_and_takes_nothing_more(model: Model) -> None:
    """Then the thread ends."""
    batcher = Batcher(model, most_waiting=100)
    model.go.set()
    futures = [batcher.submit([row([1], [n])]) for n in range(3)]
    batcher.close()
    assert results(futures) == [[0], [1], [2]]
    with pytest.raises(FullError):
        batcher.submit([row([1], [2])])


def test_batches_are_observed(model: Model) -> None:
    """Responses, and tokens with each prompt once."""
    seen: list[tuple[int, int]] = []
    batcher = Batcher(model, most_waiting=100, observe=lambda *batch: seen.append(batch))
    model.go.set()
    batcher.submit([row([1, 2, 3], [4]), row([1, 2, 3], [5, 6])]).result(10)
    batcher.close()
    assert seen == [(2, 6)]
