"""Scores from the policy's own passes, and best of n that drops the worst early."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from helpers import tiny_run
from transformers import AutoModelForCausalLM, DynamicCache

from sparserm_cli.alignment.generation.best_of_n import Sampling, best_of_n, cache_argument
from sparserm_cli.alignment.generation.policy_reward import PolicyReward
from sparserm_cli.data.example import UNLABELLED, Example
from sparserm_cli.data.rendering.row_tokenizer import TokenizedExample, TokenizedResponse
from sparserm_cli.errors import IncompatibleError, UsageError
from sparserm_cli.models.reward_model import RewardModel

PROMPT, TEXTS = "Question 1?", ["Yes, 1 is good.", "no never", "good"]
ENDS = list(range(60, 72))
"""Tokens that end a turn here: so many that some candidates end soon."""
HALVING = Sampling(n=8, tokens=20, checkpoints=(4, 9), seed=1)


@pytest.fixture(scope="module")
def scorer(tiny_model, tmp_path_factory):
    """Fit a reward on two layers with both poolings, so that every part of a score takes part."""
    folder = tmp_path_factory.mktemp("both")
    run = tiny_run.tiny_run(folder, tiny_model(), layers=(1, 3), pool="both")
    return RewardModel.load(run / "reward")


@pytest.fixture(scope="module")
def policy(tiny_model):
    """Load the whole language model of that reward."""
    policy = AutoModelForCausalLM.from_pretrained(tiny_model(), dtype=torch.float32).eval()
    policy.generation_config.eos_token_id = ENDS
    return policy


@pytest.fixture(scope="module")
def own(scorer, policy):
    """Take the head of the reward, and check that the policy is its model."""
    return PolicyReward.load(scorer.path, policy)


@pytest.fixture(scope="module")
def prompt(scorer):
    """Give the token ids of the prompt."""
    return scorer.tokenize(PROMPT, TEXTS[:1])[0].responses[0].prompt_ids.tolist()


def scores_of(scorer, prompt, candidates):
    """Score token ids by the reward model itself, in a pass of its own."""
    none = Example(1, None, "", ("",), (UNLABELLED,), None, {})
    rows = [
        TokenizedExample(
            none,
            "",
            (TokenizedResponse(np.array(prompt, np.uint32), ids.astype(np.uint32), False, 0, False),),
        )
        for ids in candidates
    ]
    return scorer.rewards(rows).scores


@pytest.mark.parametrize("steps", [1, 3])
def test_the_score_of_the_policys_own_pass_is_that_of_the_reward_model(scorer, own, policy, steps):
    """In one pass or token by token, right after the passes: the score of the same text, within 1e-4."""
    for text in TEXTS:
        (row,) = scorer.tokenize(PROMPT, [text])
        ids = np.concatenate([row.responses[0].prompt_ids, row.responses[0].response_ids]).astype(np.int64)
        with own, torch.no_grad():
            own.begin(len(row.responses[0].prompt_ids), 1)
            cache = {cache_argument(policy): DynamicCache(config=policy.config)}
            for part in np.array_split(ids, steps):
                policy(torch.from_numpy(part)[None], use_cache=True, **cache)
        np.testing.assert_allclose(own.scores(), scorer.score(PROMPT, text), atol=1e-4)
        assert own.counts.tolist() == [len(row.responses[0].response_ids)]


def test_all_candidates_have_the_score_of_their_tokens(scorer, own, prompt):
    """Also those that ended early, while padding was passed for them; without checkpoints all stay."""
    made = best_of_n(own, prompt, Sampling(n=8, tokens=20, checkpoints=(), seed=1))
    ended = [candidate.ended for candidate in made.all]
    assert any(ended)
    assert not all(ended)
    assert not any(candidate.dropped for candidate in made.all)
    assert all(len(candidate.ids) == 20 for candidate in made.all if not candidate.ended)
    assert not any(np.isin(candidate.ids, ENDS).any() for candidate in made.all)
    written = [candidate for candidate in made.all if len(candidate.ids)]
    expected = scores_of(scorer, prompt, [candidate.ids for candidate in written])
    np.testing.assert_allclose([candidate.score for candidate in written], expected, atol=1e-4)
    assert made.best.score == max(candidate.score for candidate in written)
    assert made.passed == sum(len(candidate.ids) for candidate in made.all)


def test_dropped_candidates_are_beginnings_and_cost_nothing_more(own, policy, prompt):
    """The same draws as without dropping; batch and cache shrink, so later passes hold fewer rows."""
    full = best_of_n(own, prompt, Sampling(n=8, tokens=20, checkpoints=(), seed=1))
    rows = []
    hook = policy.model.register_forward_pre_hook(
        lambda _module, _inputs, options: rows.append(options["input_ids"].shape[0]), with_kwargs=True
    )
    made = best_of_n(own, prompt, HALVING)
    hook.remove()
    assert rows[0] == 1  # the prompt
    assert rows[1] == 8
    assert all(after <= before for before, after in pairwise(rows[1:]))
    assert max(rows[6:]) <= 4
    assert max(rows[11:]) <= 2
    assert sum(candidate.dropped for candidate in made.all) == 6
    for part, whole in zip(made.all, full.all, strict=True):
        assert part.ids.tolist() == whole.ids[: len(part.ids)].tolist()
        if not part.dropped:
            assert part.ids.tolist() == whole.ids.tolist()
            assert part.score == pytest.approx(whole.score, abs=1e-4)
        elif not part.ended:
            assert len(part.ids) in HALVING.checkpoints
    assert made.passed == sum(len(candidate.ids) for candidate in made.all) < full.passed


def test_the_worst_half_is_dropped_at_each_checkpoint(scorer, own, prompt):
    """Checked against scores that the reward model computes of the beginnings."""
    full = best_of_n(own, prompt, Sampling(n=8, tokens=20, checkpoints=(), seed=1))
    remaining = list(range(8))
    for mark in HALVING.checkpoints:
        begun = [full.all[number].ids[:mark] for number in remaining]
        scores = [scores_of(scorer, prompt, [ids])[0] if len(ids) else -np.inf for ids in begun]
        order = np.argsort(scores)[::-1][: len(remaining) // 2]
        remaining = sorted(remaining[place] for place in order)
    made = best_of_n(own, prompt, HALVING)
    assert [candidate.number for candidate in made.all if not candidate.dropped] == remaining
    assert made.best.number in remaining


def test_a_policy_that_is_not_the_rewards_model_is_refused(scorer, tiny_model):
    """Other weights score the recorded response differently; another width does not fit at all."""
    other = AutoModelForCausalLM.from_pretrained(tiny_model("llama", seed=3), dtype=torch.float32)
    with pytest.raises(IncompatibleError, match="the policy's score of the reward's probe: expected "):
        PolicyReward.load(scorer.path, other)
    assert PolicyReward.load(scorer.path, other, check=False).counts.tolist() == []
    wide = AutoModelForCausalLM.from_pretrained(tiny_model("llama", hidden_size=64), dtype=torch.float32)
    with pytest.raises(IncompatibleError) as caught:
        PolicyReward.load(scorer.path, wide)
    assert str(caught.value) == (
        "the policy: expected a reward of at most 4 blocks of width 64, found layers 1, 3 of width 32; "
        "take the model that the reward was fitted on"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "Sampling.n: expected at least 1 candidate, found 0"),
        (
            {"checkpoints": (9, 4)},
            "Sampling.checkpoints: expected rising numbers between 0 and 128 tokens, found",
        ),
        ({"checkpoints": (128,)}, "Sampling.checkpoints: expected rising numbers"),
        ({"keep": 1.0}, "Sampling.keep: expected a share between 0 and 1, found 1.0"),
        ({"temperature": 0.0}, "Sampling.temperature: expected a number above 0, found 0.0"),
        ({"top_p": 0.0}, "Sampling.top_p: expected a share above 0, at most 1, found 0.0"),
    ],
)
def test_settings_that_cannot_be_are_refused(options, message):
    """Each names the value."""
    with pytest.raises(UsageError) as caught:
        Sampling(**options)
    assert str(caught.value).startswith(message)


def test_a_prompt_without_tokens_is_refused(own):
    """There is nothing to begin with."""
    with pytest.raises(UsageError, match="prompt_ids: expected at least 1 token, found none"):
        best_of_n(own, [])
