"""Rewards for TRL: the callable by itself, against a live server, and in GRPOTrainer's hands."""

import asyncio
import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparserm_cli.alignment.trainers.trl import AsyncSparseReward, SparseReward
from sparserm_cli.config import KEY_VARIABLE
from sparserm_cli.errors import UsageError
from sparserm_cli.models.reward_model import RewardModel

PROMPTS = ["Question 3?", "Question 4?", "Question 3?"]
RESPONSES = ["Yes, 3 is good", "no never", "no"]


def turns(text: str, role: str) -> list[dict[str, str]]:
    """Return one message."""
    return [{"role": role, "content": text}]


@pytest.fixture(scope="module")
def expected(model: RewardModel) -> list[float]:
    """Give the library's scores."""
    return model.score(PROMPTS, RESPONSES).tolist()


@pytest.fixture(params=["folder", "server"])
def place(request: pytest.FixtureRequest, reward: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Give a folder, and a server's address with the key in the environment."""
    if request.param == "folder":
        return str(reward)
    server = request.getfixturevalue("server")
    monkeypatch.setenv(KEY_VARIABLE, server.key)
    return server.url


def test_plain_and_conversational_data_score_alike(place: str, expected: list[float]) -> None:
    """By keyword, with everything else that TRL passes."""
    function = SparseReward(place)
    logged: dict[str, float] = {}
    others = {
        "completion_ids": [[1]] * 3,
        "trainer_state": None,
        "log_metric": logged.__setitem__,
        "answer": [],
    }
    plain = function(prompts=PROMPTS, completions=RESPONSES, **others)
    chats = (
        [turns(prompt, "user") for prompt in PROMPTS],
        [turns(response, "assistant") for response in RESPONSES],
    )
    conversational = function(prompts=chats[0], completions=chats[1], **others)
    np.testing.assert_allclose(plain, expected, atol=1e-5)
    np.testing.assert_allclose(conversational, expected, atol=1e-5)
    assert logged["sparserm/ood"] > 0
    assert function(prompts=[], completions=[]) == []


def test_the_last_turn_of_a_completion_is_scored(place: str, model: RewardModel) -> None:
    """What tools said before it belongs to the prompt; words may be missing."""
    called = [*turns("", "assistant"), *turns("42", "tool"), *turns("good", "assistant")]
    called[0]["content"] = None  # type: ignore[assignment]
    history = [*turns("Q?", "user"), *turns("", "assistant"), *turns("42", "tool")]
    (score,) = SparseReward(place)(prompts=["Q?"], completions=[called])
    assert score == pytest.approx(float(model.score([history], ["good"])[0]), abs=1e-5)


def parts(text: str) -> list[dict[str, Any]]:
    """Return text in two parts, as multimodal formats have it."""
    return [{"type": "text", "text": text[:2]}, {"type": "text", "text": text[2:]}]


def test_row_80_parts_of_text_score_as_text(place: str, expected: list[float]) -> None:
    """In prompts and in completions."""
    prompts = [[{"role": "user", "content": parts(prompt)}] for prompt in PROMPTS]
    completions = [[{"role": "assistant", "content": parts(response)}] for response in RESPONSES]
    np.testing.assert_allclose(SparseReward(place)(prompts, completions), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("completion", "reason"),
    [
        ([], "completion: expected at least one message, found an empty list"),
        (
            [*turns("A", "assistant"), *turns("42", "tool")],
            'completion: expected a last turn of the assistant, found one of role "tool"',
        ),
        (
            [{"role": "assistant", "content": [*parts("No, none"), {"type": "image"}]}],
            'completion[0].content[2]: expected a part of type text, found one of type "image"',
        ),
        (
            turns("\ud800", "assistant"),
            "completion[0].content: expected Unicode text, found a lone surrogate U+D800",
        ),
    ],
)  # fmt: skip
def test_row_80_what_is_no_text_has_no_reward(
    place: str, expected: list[float], completion: Any, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """And one line of the log says why; the others keep theirs."""
    rewards = SparseReward(place)(PROMPTS[:2], [completion, RESPONSES[1]])
    assert rewards == [None, pytest.approx(expected[1], abs=1e-5)]
    (line,) = caplog.messages
    assert line == f"1 of 2 responses have no reward; the first: {reason}"


def test_row_80_null_is_never_a_word(place: str) -> None:
    """Neither as a response nor before one."""
    nothing = turns(None, "assistant")  # type: ignore[arg-type]
    function = SparseReward(place)
    silent, said = function(["Q?"] * 2, [[*nothing, *turns("good", "assistant")], nothing])
    (empty,) = function([[*turns("Q?", "user"), *turns("", "assistant")]], ["good"])
    assert (said, silent) == (None, pytest.approx(empty, abs=1e-5))


def test_what_cannot_be_scored_has_none(place: str, expected: list[float]) -> None:
    """Empty and too long completions do not stop a run, wherever they stand in it."""
    responses = [RESPONSES[0], "", *["x" * 600] * 70, RESPONSES[0], ""]
    rewards = SparseReward(place)(prompts=[PROMPTS[0]] * len(responses), completions=responses)
    scored = {0, len(responses) - 2}
    assert [place for place, reward in enumerate(rewards) if reward is not None] == sorted(scored)
    np.testing.assert_allclose([rewards[index] for index in scored], expected[0], atol=1e-5)


def test_token_rewards_add_up(place: str, expected: list[float]) -> None:
    """One list a completion."""
    token_rewards = SparseReward(place).token_rewards(PROMPTS, RESPONSES)
    np.testing.assert_allclose([sum(values or []) for values in token_rewards], expected, atol=2e-5)


def test_guards_apply(reward: Path, model: RewardModel) -> None:
    """Normalised and clipped; None where the reward model abstains."""
    function = SparseReward(str(reward), normalize=True, clip=0.5, abstain=1e-9)
    assert function(prompts=PROMPTS, completions=RESPONSES) == [None] * 3
    scores = (model.score(PROMPTS, RESPONSES) - model.config.score_mean) / model.config.score_std
    rewards = SparseReward(str(reward), normalize=True, clip=0.5)(prompts=PROMPTS, completions=RESPONSES)
    np.testing.assert_allclose(rewards, np.clip(scores, -0.5, 0.5), atol=1e-5)


def test_row_82_the_coroutine_is_one_to_every_trl(place: str, expected: list[float]) -> None:
    """Old releases ask the object itself, new ones its call; its signature stays that of the call."""
    function = AsyncSparseReward(place, name="mine")
    assert inspect.iscoroutinefunction(function)
    assert inspect.iscoroutinefunction(function.__call__)
    assert not inspect.iscoroutinefunction(SparseReward(place))
    assert list(inspect.signature(function).parameters) == ["prompts", "completions", "others"]
    assert function.__name__ == "mine"
    np.testing.assert_allclose(
        asyncio.run(function(prompts=PROMPTS, completions=RESPONSES)), expected, atol=1e-5
    )


@pytest.mark.parametrize("name", ["trl", "verl", "openrlhf"])
def test_adapters_import_without_the_trainers(name: str) -> None:
    """None of them loads any of these packages, by the path that older documents name either."""
    code = (
        f"import sys, sparserm_cli.align.{name}\n"
        "sys.exit(any(one in sys.modules for one in ('trl', 'verl', 'openrlhf', 'fastapi', 'uvicorn')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


class Recorded:
    """Remembers what a reward function was asked and said."""

    calls: list[tuple[Any, Any, Any]]

    def keep(self, prompts: Any, completions: Any, rewards: Any) -> Any:
        """Remember one call."""
        self.calls.append((prompts, completions, rewards))
        return rewards


class Plain(Recorded, SparseReward):
    """The callable, remembered."""

    def __call__(self, prompts: Any, completions: Any, **others: Any) -> Any:
        """Score and remember."""
        return self.keep(prompts, completions, super().__call__(prompts, completions, **others))


class Coroutine(Recorded, AsyncSparseReward):
    """The coroutine, remembered."""

    async def __call__(self, prompts: Any, completions: Any, **others: Any) -> Any:
        """Score and remember."""
        return self.keep(prompts, completions, await super().__call__(prompts, completions, **others))


@pytest.mark.filterwarnings("ignore")  # other people's code
@pytest.mark.parametrize(("kind", "chat"), [(Plain, False), (Coroutine, True)])
def test_grpo_trains_two_steps_on_the_scores_of_the_library(
    kind: type[Any],
    chat: bool,
    reward: Path,
    model: RewardModel,
    grpo: Callable[..., Any],
) -> None:
    """Standard data with the callable, conversational data with the coroutine."""
    prompts = [turns(question, "user") if chat else question for question in ("Question 1?", "Question 2?")]
    function = kind(str(reward), normalize=True)
    function.calls = []
    trainer = grpo(function, {"prompt": prompts, "answer": ["a", "b"]})
    assert len(function.calls) == 2
    for prompts_of_call, completions, rewards in function.calls:
        texts = [completion[-1]["content"] if chat else completion for completion in completions]
        good = [place for place, text in enumerate(texts) if text]
        scores = model.score([prompts_of_call[place] for place in good], [texts[place] for place in good])
        expected = (scores - model.config.score_mean) / model.config.score_std
        np.testing.assert_allclose([rewards[place] for place in good], expected, atol=1e-4)
        assert all(rewards[place] is None for place in range(4) if place not in good)
    logged = [
        entry["rewards/sparserm/mean"]
        for entry in trainer.state.log_history
        if "rewards/sparserm/mean" in entry
    ]
    assert len(logged) == 2


def test_a_text_where_a_list_is_due_is_refused(reward: Path) -> None:
    """Six letters are not six prompts."""
    function = SparseReward(str(reward))
    for given, name in ((("Is it?", "Paris."), "prompts"), ((["Is it?"], "P"), "completions")):
        with pytest.raises(UsageError) as error:
            function(*given)
        assert str(error.value) == f"{name}: expected a list, found one text; put it into a list"
