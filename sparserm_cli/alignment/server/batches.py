"""Batches of requests that wait for the model: waiting requests are computed together, each prompt once.

One thread owns the model. It takes waiting jobs in their order, up to a number of tokens in which a prompt
that several responses share counts once, so that a group of responses costs one prompt however it was posted.

Memory: the waiting jobs, bounded by `most_waiting` tokens, and one batch.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import NamedTuple

from sparserm_cli.config import ScoreLimits
from sparserm_cli.data.rendering.row_tokenizer import TokenizedExample
from sparserm_cli.models.reward_model import UNGUARDED, Rewards

BATCH_TOKENS = 16_384
"""Most tokens in one batch, with each prompt counted once."""


class Kind(NamedTuple):
    """How a request wants its rewards; only requests of one kind are computed together."""

    by_token: bool = False
    """Whether token rewards are wanted."""
    guards: ScoreLimits = UNGUARDED
    """The normalisation and the limits that are applied to the scores."""
    parts: bool = False
    """Whether the parts of the scores are wanted."""


PLAIN = Kind()
Compute = Callable[[Sequence[TokenizedExample], Kind], Rewards]
"""The function that computes the rewards of tokenised rows of one response."""
Observe = Callable[[int, int], None]
"""A function that is called with the numbers of responses and tokens of each batch."""


class FullError(Exception):
    """The queue is full."""


class _Job:
    """The rows of one request and the future of their rewards."""

    def __init__(self, rows: Sequence[TokenizedExample], kind: Kind) -> None:
        self.rows, self.kind = rows, kind
        self.result: Future[Rewards] = Future()
        responses = [row.responses[0] for row in rows]
        self.prompts = {response.prompt_ids.tobytes(): len(response.prompt_ids) for response in responses}
        self.response_tokens = sum(len(response.response_ids) for response in responses)
        self.tokens = self.response_tokens + sum(self.prompts.values())

    def tokens_beside(self, prompts: dict[bytes, int]) -> int:
        """Return the number of tokens that the job adds to a batch that already has these prompts."""
        return self.response_tokens + sum(
            size for prompt, size in self.prompts.items() if prompt not in prompts
        )


class Batcher:
    """A bounded queue in front of one thread that computes.

    Args:
        compute: computes the rewards of rows; only that thread calls it.
        most_waiting: most tokens that may wait; the first job may have more.
        batch_tokens: most tokens that are computed together; a single job may have more.
        observe: called with each batch.

    """

    def __init__(
        self,
        compute: Compute,
        *,
        most_waiting: int,
        batch_tokens: int = BATCH_TOKENS,
        observe: Observe = lambda responses, tokens: None,
    ) -> None:
        self._compute, self._observe = compute, observe
        self._most_waiting, self._batch_tokens = most_waiting, batch_tokens
        self._jobs: deque[_Job] = deque()
        self._closed = False
        self._changed = threading.Condition()  # its lock is reentrant
        self._thread = threading.Thread(target=self._run, name="batches", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """The number of tokens of the waiting jobs."""
        with self._changed:
            return sum(job.tokens for job in self._jobs)

    def submit(self, rows: Sequence[TokenizedExample], kind: Kind = PLAIN) -> "Future[Rewards]":
        """Queue rows of one response each; a future that is cancelled before its turn is never computed.

        Raises:
            FullError: too many tokens are waiting, or the queue is closed.

        """
        job = _Job(rows, kind)
        with self._changed:
            full = self._jobs and self.waiting + job.tokens > self._most_waiting
            if full or self._closed:
                raise FullError
            self._jobs.append(job)
            self._changed.notify()
        return job.result

    def close(self) -> None:
        """Accept no more jobs, compute the waiting ones, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while taken := self._take():
            wanted = [job for job in taken if job.result.set_running_or_notify_cancel()]
            if wanted:
                self._work(wanted)

    def _take(self) -> list[_Job]:
        """Wait for jobs and return the next ones of one kind; none when closed and empty."""
        taken: list[_Job] = []
        prompts: dict[bytes, int] = {}
        tokens = 0
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._closed)
            while self._jobs:
                job = self._jobs[0]
                added = job.tokens_beside(prompts)
                if taken and (tokens + added > self._batch_tokens or job.kind != taken[0].kind):
                    break
                taken.append(self._jobs.popleft())
                tokens += added
                prompts |= job.prompts
        if taken:
            self._observe(sum(len(job.rows) for job in taken), tokens)
        return taken

    def _work(self, jobs: Sequence[_Job]) -> None:
        """Compute jobs together; if that fails, compute each alone, so that only the faulty job fails."""
        try:
            rewards = self._compute([row for job in jobs for row in job.rows], jobs[0].kind)
        except Exception as error:  # noqa: BLE001 - whatever it is belongs to who asked, not to this thread
            if len(jobs) == 1:
                jobs[0].result.set_exception(error)
                return
            for job in jobs:
                self._work([job])
            return
        for job, part in zip(jobs, rewards.split([len(job.rows) for job in jobs]), strict=True):
            job.result.set_result(part)
