"""Best of n that drops the worst candidates while they grow, so that only a few are written to the end.

All candidates of a prompt grow in one batch. At each checkpoint those with the lowest scores are dropped:
their rows leave the batch and the cache of keys and values, so every later pass is as much cheaper.
Candidates that have ended leave the batch too and keep their score. Without checkpoints this is the usual
best of n.

Each candidate draws its tokens by a random generator of its own. So the tokens of a candidate do not depend
on the others in the batch, and dropping early picks among beginnings of the same candidates.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from inspect import signature
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from sparserm_cli.alignment.generation.policy_reward import PolicyReward
from sparserm_cli.errors import UsageError


@dataclass(frozen=True)
class Sampling:
    """How candidates are drawn and dropped."""

    n: int = 16
    """Number of candidates."""
    tokens: int = 128
    """Most tokens of a candidate."""
    checkpoints: tuple[int, ...] = (16, 32, 64)
    """Numbers of scored tokens, rising, at which the worst candidates are dropped."""
    keep: float = 0.5
    """Share of the remaining candidates that stays at a checkpoint, rounded up."""
    temperature: float = 1.0
    """Divides the logits."""
    top_p: float = 0.95
    """Smallest share of the probability whose likeliest tokens are drawn from."""
    seed: int = 0
    """Seed of the candidates; candidate i has a generator seeded with it and i."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            UsageError: a value is out of range, or the checkpoints do not rise.

        """
        marks = (0, *self.checkpoints, self.tokens)
        rising = all(before < after for before, after in pairwise(marks))
        for name, good, expected, found in (
            ("n", self.n >= 1, "at least 1 candidate", self.n),
            ("checkpoints", rising, f"rising numbers between 0 and {self.tokens} tokens", self.checkpoints),
            ("keep", 0 < self.keep < 1, "a share between 0 and 1", self.keep),
            ("temperature", self.temperature > 0, "a number above 0", self.temperature),
            ("top_p", 0 < self.top_p <= 1, "a share above 0, at most 1", self.top_p),
        ):
            if not good:
                raise UsageError(f"Sampling.{name}", expected, str(found), "correct it")


class Candidate(NamedTuple):
    """One response, or the beginning of one that was dropped.

    Fields:
        number: from 0; it determines the tokens.
        ids: token ids, without the one that ends a turn.
        score: reward of these tokens; NaN where there is none.
        ended: whether the policy ended it before the largest number of tokens.
        dropped: whether it was dropped at a checkpoint.
    """

    number: int
    ids: Int64[np.ndarray, " tokens"]
    score: float
    ended: bool
    dropped: bool


class Candidates(NamedTuple):
    """All candidates for a prompt.

    Fields:
        all: every candidate by its number.
        passed: tokens of candidates that went through the policy, which is what generating costs; the prompt
            goes through once and is not counted.
    """

    all: tuple[Candidate, ...]
    passed: int

    @property
    def best(self) -> Candidate:
        """The candidate with the highest score among those that were not dropped."""
        kept = [candidate for candidate in self.all if not candidate.dropped]
        return max(kept, key=lambda candidate: -np.inf if np.isnan(candidate.score) else candidate.score)


@torch.inference_mode()
def best_of_n(
    reward: PolicyReward, prompt_ids: Sequence[int], sampling: Sampling | None = None
) -> Candidates:
    """Write candidates for a prompt, drop the worst at the checkpoints, and score what remains.

    Args:
        reward: the policy with the head of a reward model.
        prompt_ids: token ids of the prompt, with the template's beginning of a response.
        sampling: how candidates are drawn and dropped.

    Raises:
        UsageError: the prompt has no token.

    """
    sampling = sampling or Sampling()
    if not len(prompt_ids):
        raise UsageError("prompt_ids", "at least 1 token", "none", "begin with the BOS token or a template")
    with reward:
        batch = _Batch(reward, torch.tensor([list(prompt_ids)], device=reward.policy.device), sampling)
        for mark in (*sampling.checkpoints, sampling.tokens):
            batch.grow(mark)
            if mark != sampling.tokens:
                batch.drop()
            if not batch.rows:
                break
        return batch.closed()


@dataclass
class _Row:
    """A candidate on its way."""

    number: int
    generator: torch.Generator
    ids: list[int] = field(default_factory=list)
    score: float = float("nan")
    ended: bool = False
    dropped: bool = False


class _Batch:
    """The candidates that still grow, with their cache, and those that do not."""

    def __init__(self, reward: PolicyReward, prompt: Int[Tensor, "1 seq"], sampling: Sampling) -> None:
        self._reward, self._sampling, self._passed = reward, sampling, 0
        self._all = [
            _Row(number, torch.Generator().manual_seed(sampling.seed * 1_000_003 + number))
            for number in range(sampling.n)
        ]
        self.rows = list(self._all)
        self._prompt = prompt.shape[1]
        self._ids = prompt.repeat_interleave(sampling.n, dim=0)
        self._ends = _ends_of(reward.policy)
        self._cache = DynamicCache(config=reward.policy.config)
        self._with_cache = {cache_argument(reward.policy): self._cache}
        if self._prompt > 1:  # the last token of the prompt goes through with the candidates
            reward.begin(self._prompt - 1, 1)
            reward.policy(input_ids=prompt[:, :-1], use_cache=True, **self._with_cache)
            self._cache.batch_repeat_interleave(sampling.n)
        reward.begin(1, sampling.n)

    def grow(self, mark: int) -> None:
        """Grow until each candidate has ended, or `mark` of its tokens are scored."""
        policy, width = self._reward.policy, self._ids.shape[1]
        self._ids = policy.generate(
            input_ids=self._ids,
            attention_mask=torch.ones_like(self._ids),
            **self._with_cache,
            generation_config=GenerationConfig(
                do_sample=False,
                # A token is scored as it goes through the policy, when the next one is drawn.
                max_new_tokens=self._prompt + mark + 1 - width,
                eos_token_id=list(self._ends) or None,
                pad_token_id=self._ends[0] if self._ends else 0,
            ),
            logits_processor=self._processors(),
            stopping_criteria=StoppingCriteriaList([_Ended(self._reward, self._ends)]),
        )
        self._settle(mark)

    def _processors(self) -> LogitsProcessorList:
        """Return what turns logits into draws; where all of the probability counts, nothing is sorted."""
        sampling = self._sampling
        processors: list[Any] = [TemperatureLogitsWarper(sampling.temperature)]
        if sampling.top_p < 1:
            processors.append(TopPLogitsWarper(sampling.top_p))
        return LogitsProcessorList([*processors, _Drawn([row.generator for row in self.rows])])

    def _settle(self, mark: int) -> None:
        """Note tokens and scores, and take the candidates that have ended out of the batch."""
        scores, counts = self._reward.scores(), self._reward.counts
        for place, row in enumerate(self.rows):
            self._passed += int(counts[place]) - len(row.ids)
            row.ids = self._ids[place, self._prompt : self._prompt + int(counts[place])].tolist()
            row.score = float(scores[place])
            following = int(self._ids[place, self._prompt + int(counts[place])])
            row.ended = following in self._ends
        self._keep([place for place, row in enumerate(self.rows) if not row.ended])

    def drop(self) -> None:
        """Drop the candidates with the lowest scores among those that remain, also among the ended ones."""
        remaining = [row for row in self._all if not row.dropped]
        ranked = sorted(remaining, key=lambda row: (np.isnan(row.score), -row.score))
        for row in ranked[int(np.ceil(len(ranked) * self._sampling.keep)) :]:
            row.dropped = True
        self._keep([place for place, row in enumerate(self.rows) if not row.dropped])

    def _keep(self, places: list[int]) -> None:
        """Take all other rows out of the batch and the cache."""
        if len(places) == len(self.rows):
            return
        self.rows = [self.rows[place] for place in places]
        index = torch.tensor(places, dtype=torch.long, device=self._ids.device)
        self._ids = self._ids[index]
        self._reward.keep(places)
        if places:
            self._cache.batch_select_indices(index)

    def closed(self) -> Candidates:
        """Return all candidates as they are now."""
        return Candidates(
            tuple(
                Candidate(row.number, np.array(row.ids, np.int64), row.score, row.ended, row.dropped)
                for row in self._all
            ),
            self._passed,
        )


class _Drawn(LogitsProcessor):
    """Makes the likeliest token a draw from the distribution (Gumbel's maximum), by each row's generator."""

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        self._generators = generators

    def __call__(self, input_ids: Tensor, scores: Float[Tensor, "rows vocabulary"]) -> Tensor:
        uniform = torch.stack(
            [torch.rand(scores.shape[1], generator=generator) for generator in self._generators]
        )
        gumbel = -torch.log(-torch.log(uniform.clamp(min=1e-20)))
        return scores + gumbel.to(scores)


class _Ended(StoppingCriteria):
    """Tells the running scores which candidates have ended, since padding is passed for them from then on."""

    def __init__(self, reward: PolicyReward, ends: Sequence[int]) -> None:
        self._reward, self._ends = reward, torch.tensor(ends, dtype=torch.long)

    def __call__(self, input_ids: Int[Tensor, "rows seq"], scores: Any, **_: Any) -> Tensor:
        ended = torch.isin(input_ids[:, -1], self._ends.to(input_ids.device))
        self._reward.finish(ended.nonzero()[:, 0].tolist())
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def cache_argument(policy: Any) -> str:
    """Return the name under which a policy takes its cache of keys and values; transformers renamed it."""
    return "cache" if "cache" in signature(policy.forward).parameters else "past_key_values"


def _ends_of(policy: Any) -> tuple[int, ...]:
    """Return the token ids that end a turn of the policy."""
    ends = policy.generation_config.eos_token_id
    return tuple(ends) if isinstance(ends, list | tuple) else () if ends is None else (ends,)
