"""What is said of each response of a request: one that cannot be scored never refuses the others."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import live_server

from sparserm_cli import RewardModel
from sparserm_cli.config import ServeConfig
from sparserm_cli.errors import IncompatibleError, UsageError

PROMPT = "Question 3?"
GOOD = "Yes, 3 is good"
EMPTY = "expected a response with tokens, found none; leave it out"
LONG = "expected at most 512 tokens, found 650; shorten it"
NO_HEADER = "expected a conversation with '<|im_start|>assistant\\n' before the response, found none"
NOT_LAST = 'messages: expected a last turn of the assistant, found one of role "tool"'
IMAGE = 'messages[1].content[1]: expected a part of type text, found one of type "image_url"'


def turns(response: Any, role: str = "assistant") -> list[dict[str, str]]:
    """Return prompt and response as messages."""
    return [{"role": "user", "content": PROMPT}, {"role": role, "content": response}]


def text(model: RewardModel, response: str) -> str:
    """Return them as templated text."""
    return f"{model.template.render(PROMPT)}{response}<|im_end|>\n"


def bodies(model: RewardModel, too_long: str) -> dict[str, tuple[dict[str, Any], str, list[str]]]:
    """Return for each route a request of a good response and bad ones, where its scores are, and reasons."""
    documents = {"queries": PROMPT, "documents": [GOOD, "", too_long]}
    parts = [{"type": "text", "text": GOOD}, {"type": "image_url", "image_url": {"url": "x"}}]
    messages = {"messages": [turns(GOOD), turns(""), turns(too_long), turns(GOOD, "tool"), turns(parts)]}
    texts = [text(model, response) for response in (GOOD, "", too_long)]
    return {
        "/score": (documents, "score", [EMPTY, LONG]),
        "/classify": (messages, "probs", [EMPTY, LONG, NOT_LAST, IMAGE]),
        "/v1/embeddings": ({"input": [*texts, "no header"]}, "embedding", [EMPTY, LONG, NO_HEADER]),
        "/get_reward": ({"query": [*texts, "no header"]}, "rewards", [EMPTY, LONG, NO_HEADER]),
        "/predict": (
            {"inputs": [[input_text] for input_text in [*texts, "no header"]], "raw_scores": True},
            "",
            [EMPTY, LONG, NO_HEADER],
        ),
    }


@pytest.fixture(scope="module")
def expected(model: RewardModel) -> float:
    """Give the library's score of the good response."""
    return float(model.score([PROMPT], [GOOD])[0])


@pytest.fixture(scope="module")
def too_long(model: RewardModel) -> str:
    """Give a response of one token a byte that makes 650 tokens with its prompt."""
    return "x" * (650 - len(model.tokenize([PROMPT], ["x"])[0].responses[0].prompt_ids))


def scores_and_reasons(answer: Any, name: str) -> tuple[list[Any], list[Any]]:
    """Return what any route says of each response."""
    if isinstance(answer, list):
        return [entry["score"] for (entry,) in answer], [entry["reason"] for (entry,) in answer]
    if "rewards" in answer:
        assert answer["scores"] == answer["rewards"]
        return answer["rewards"], answer["reasons"]
    values = [entry[name] for entry in answer["data"]]
    return [value[0] if isinstance(value, list) else value for value in values], [
        entry["reason"] for entry in answer["data"]
    ]


@pytest.mark.parametrize("path", ["/score", "/classify", "/v1/embeddings", "/get_reward", "/predict"])
def test_row_70_one_bad_response_does_not_refuse_the_batch(
    server: Any, model: RewardModel, expected: float, too_long: str, path: str
) -> None:
    """The good one has its score; the others have none, and a reason each."""
    body, name, reasons = bodies(model, too_long)[path]
    status, answer = server.ask(path, body)
    assert status == 200, answer
    scores, messages = scores_and_reasons(answer, name)
    assert scores == [pytest.approx(expected, abs=1e-5), *[None] * len(reasons)]
    assert messages[0] is None
    assert [message.startswith(reason) for message, reason in zip(messages[1:], reasons, strict=True)] == [
        True
    ] * len(reasons), messages
    if path == "/get_reward":
        assert answer["extra_logs"]["scored"] == [1.0] + [0.0] * len(reasons)
        assert answer["extra_logs"]["ood"][1:] == [None] * len(reasons)


def test_row_70_a_floor_stands_for_no_score(
    reward: Path, model: RewardModel, expected: float, too_long: str
) -> None:
    """For trainers that need numbers; the reason stays. Abstaining is no score as well."""
    with live_server.live(reward, unscorable=-3.5) as server:
        for path, (body, name, reasons) in bodies(model, too_long).items():
            answer = server.ask(path, body)[1]
            scores, messages = scores_and_reasons(answer, name)
            if path == "/get_reward":
                assert answer["extra_logs"]["ood"][1:] == [-1.0] * len(reasons)
            assert scores == [pytest.approx(expected, abs=1e-5), *[-3.5] * len(reasons)]
            assert None not in messages[1:]
        answer = server.ask("/score", {"queries": PROMPT, "documents": GOOD, "abstain": 1e-6})[1]
        assert answer["data"][0]["score"] == -3.5
        assert answer["data"][0]["reason"] == "its ood is above the 1e-06 of abstain"


def test_row_70_a_strict_server_refuses_the_batch(reward: Path, model: RewardModel, too_long: str) -> None:
    """422, with the number of the first and why."""
    with live_server.live(reward, strict=True) as server:
        for path, (body, _, _) in bodies(model, too_long).items():
            status, answer = server.ask(path, body)
            assert (status, answer["error"]["message"]) == (422, f"response 2: {EMPTY}")
        assert server.ask("/score", {"queries": PROMPT, "documents": GOOD})[0] == 200


def test_row_70_a_prompt_that_the_template_refuses(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is found among the others."""
    render = server.service.model.template.render

    def refuse(prompt: Any, *others: Any) -> str:
        if prompt == "refused":
            raise IncompatibleError("template", "a role it knows", "'x'", "use another")
        return str(render(prompt, *others))

    monkeypatch.setattr(server.service.model.template, "render", refuse)
    body = {"queries": [PROMPT, "refused", PROMPT], "documents": [GOOD] * 3}
    data = server.ask("/score", body)[1]["data"]
    assert [entry["reason"] for entry in data] == [
        None,
        "expected a role it knows, found 'x'; use another",
        None,
    ]
    assert data[0]["score"] == pytest.approx(data[2]["score"], abs=1e-5)


@pytest.mark.parametrize(
    ("character", "shown"), [("\0", "a NUL character"), ("\udfff", "a lone surrogate U+DFFF")]
)
@pytest.mark.parametrize("path", ["/score", "/classify", "/v1/embeddings", "/get_reward", "/predict"])
def test_row_68_text_that_no_tokenizer_reads_costs_its_own_score(
    server: Any, model: RewardModel, expected: float, path: str, character: str, shown: str
) -> None:
    """As a data file's row is refused and not the file."""
    bad = f"half {character} a word"
    body = {
        "/score": {"queries": [PROMPT, PROMPT, bad], "documents": [GOOD, bad, GOOD]},
        "/classify": {
            "messages": [turns(GOOD), turns(bad), [{"role": "user", "content": bad}, turns(GOOD)[1]]]
        },
        "/v1/embeddings": {"input": [text(model, GOOD), text(model, bad), bad + text(model, GOOD)]},
        "/get_reward": {"query": [text(model, GOOD), text(model, bad), bad + text(model, GOOD)]},
        "/predict": {"inputs": [[PROMPT, GOOD], [PROMPT, bad], [bad, GOOD]], "raw_scores": True},
    }[path]
    name = {"/score": "score", "/classify": "probs", "/v1/embeddings": "embedding"}.get(path, "")
    status, answer = server.ask(path, body)
    assert status == 200, answer
    scores, reasons = scores_and_reasons(answer, name)
    assert scores == [pytest.approx(expected, abs=1e-5), None, None]
    assert all(reason.endswith(f"expected Unicode text, found {shown}") for reason in reasons[1:]), reasons


@pytest.mark.parametrize("path", ["/classify", "/v1/embeddings"])
def test_text_in_parts_is_the_text(server: Any, expected: float, path: str) -> None:
    """Joined with nothing between, in the prompt and in the response."""
    parts = [{"type": "text", "text": GOOD[:5]}, {"type": "text", "text": GOOD[5:]}]
    prompt = {"role": "user", "content": [{"type": "text", "text": PROMPT}]}
    answer = server.ask(path, {"messages": [prompt, {"role": "assistant", "content": parts}]})[1]
    entry = answer["data"][0]
    assert entry.get("probs", entry.get("embedding")) == [pytest.approx(expected, abs=1e-5)]


def test_row_70_residuals_that_are_not_finite_cost_their_own_score(
    reward: Path, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever they stand among the others; where none can be computed it is the server's failure."""
    with live_server.live(reward) as server:
        compute = server.service._batches._compute

        def fail(rows: Any, kind: Any) -> Any:
            for row in rows:
                if (response := row.example.responses[0]).startswith("bad"):
                    raise IncompatibleError("a row", "finite residuals", response, "use bfloat16")
            return compute(rows, kind)

        monkeypatch.setattr(server.service._batches, "_compute", fail)
        for bad in ({0}, {2}, {4}, {1, 2}, {0, 3, 4}):
            documents = [f"bad {place}" if place in bad else GOOD for place in range(5)]
            status, answer = server.ask("/score", {"queries": PROMPT, "documents": documents})
            assert status == 200, answer
            for place, entry in enumerate(answer["data"]):
                reason = f"expected finite residuals, found bad {place}; use bfloat16"
                wanted = (None, reason) if place in bad else (pytest.approx(expected, abs=1e-5), None)
                assert (entry["score"], entry["reason"]) == wanted
        status, answer = server.ask("/score", {"queries": PROMPT, "documents": ["bad"] * 3})
        assert (status, answer["error"]["code"]) == (500, 500)
        assert answer["error"]["message"].endswith("expected finite residuals, found bad; use bfloat16")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_floor_is_a_number(value: float) -> None:
    """JSON has no other."""
    with pytest.raises(UsageError, match="--unscorable: expected a finite number, found"):
        ServeConfig(unscorable=value)


REFUSED = [
    ("/classify", {"encoding_format": "base64"}, "encoding_format is not known to this server"),
    ("/v1/embeddings", {"dimensions": 1}, "dimensions is not known to this server"),
    ("/classify", {"chat_template": "{{ x }}"}, "chat_template is not known"),
    ("/classify", {"add_generation_prompt": True}, "add_generation_prompt is not known"),
    ("/classify", {"activation": "sigmoid"}, "body.activation: Input should be a valid boolean"),
    ("/classify", {"activation": True, "use_activation": False}, "use_activation and activation contradict"),
    ("/classify", {"truncate_prompt_tokens": -2}, "body.truncate_prompt_tokens"),
    ("/classify", {"truncation_side": "right"}, "truncation_side is not known"),
    ("/classify", {"clip": 0}, "body.clip: Input should be greater than 0"),
    ("/get_reward", {"abstain": -1.0}, "body.abstain: Input should be greater than 0"),
    ("/classify", {"normalize": "maybe"}, "body.normalize: Input should be a valid boolean"),
]


@pytest.mark.parametrize(("path", "field", "said"), REFUSED)
def test_row_71_what_would_change_a_score_is_refused_by_name(
    server: Any, model: RewardModel, path: str, field: dict[str, Any], said: str
) -> None:
    """Never ignored."""
    body = {"query": [text(model, GOOD)]} if path == "/get_reward" else {"messages": turns(GOOD)}
    status, answer = server.ask(path, {**body, **field})
    assert status == 422
    assert said in answer["error"]["message"]


@pytest.mark.parametrize(
    "field",
    [
        {"encoding_format": "float"},
        {"chat_template_kwargs": {}},
        {"dimensions": None},
        {"user": "x", "priority": 3},
    ],
)
def test_what_changes_nothing_is_let_pass(server: Any, expected: float, field: dict[str, Any]) -> None:
    """As trainers send it."""
    data = server.ask("/classify", {"messages": turns(GOOD), **field})[1]["data"]
    assert data[0]["probs"] == [pytest.approx(expected, abs=1e-5)]


@pytest.mark.parametrize("name", ["use_activation", "activation"])
def test_an_activation_by_either_name(server: Any, expected: float, name: str) -> None:
    """On both of vLLM's routes."""
    logistic = pytest.approx(1 / (1 + np.exp(-expected)), abs=1e-5)
    classified = server.ask("/classify", {"messages": turns(GOOD), name: True})[1]
    scored = server.ask("/score", {"queries": PROMPT, "documents": GOOD, name: True})[1]
    assert classified["data"][0]["probs"] == [logistic]
    assert scored["data"][0]["score"] == logistic


def test_row_71_truncation_leaves_out_the_oldest_prompt_tokens(server: Any, model: RewardModel) -> None:
    """Exactly as the library cuts; of the response nothing is left out."""
    prompt = "old " * 30
    (row,) = model.tokenize([prompt], [GOOD], any_length=True)
    cut = model.template.rows.truncate_left(row.responses[0], 40)
    assert cut.truncated
    score = float(model.rewards([row._replace(responses=(cut,))]).scores[0])
    body = {"queries": prompt, "documents": [GOOD, "x" * 40], "truncate_prompt_tokens": 40}
    answer = server.ask("/score", body)[1]
    assert answer["data"][0]["score"] == pytest.approx(score, abs=1e-5)
    assert answer["data"][1]["reason"] == "expected a response of under 40 tokens, found 40"
    assert answer["usage"]["total_tokens"] == 40
    whole = server.ask("/score", {**body, "truncate_prompt_tokens": -1})[1]["data"]
    plain = server.ask("/score", {**body, "truncate_prompt_tokens": None})[1]["data"]
    assert [entry["score"] for entry in whole] == pytest.approx([entry["score"] for entry in plain], abs=1e-5)


def test_row_72_guards_of_a_request(server: Any, model: RewardModel) -> None:
    """They apply to it alone, as in the library, and the answer says what was done."""
    from sparserm_cli.config import ScoreLimits

    responses = [GOOD, "\x01\x02~~~^^^"]
    rows = model.tokenize([PROMPT] * 2, responses)
    limit = float(model.rewards(rows).ood.mean())
    body = {"queries": PROMPT, "documents": responses}
    for guards in (
        ScoreLimits(normalize=True),
        ScoreLimits(clip=0.01),
        ScoreLimits(abstain=limit),
        ScoreLimits(normalize=True, clip=0.02, abstain=limit),
    ):
        sent = {"normalize": guards.normalize, "clip": guards.clip, "abstain": guards.abstain}
        answer = server.ask("/score", {**body, **sent})[1]
        scores = [float("nan") if entry["score"] is None else entry["score"] for entry in answer["data"]]
        np.testing.assert_allclose(scores, model.rewards(rows, guards).scores, atol=1e-5)
        assert answer["guards"] == sent
    plain = server.ask("/score", body)[1]
    assert plain["guards"] == {"normalize": False, "clip": None, "abstain": None}
    np.testing.assert_allclose(
        [entry["score"] for entry in plain["data"]], model.rewards(rows).scores, atol=1e-5
    )
    assert server.ask("/info")[1]["per_request"] == ["normalize", "clip", "abstain"]


def test_row_72_guards_of_a_request_stand_for_those_of_the_server(reward: Path, model: RewardModel) -> None:
    """Each by itself; null and nothing leave the server's own."""
    with live_server.live(reward, clip=0.01, normalize=True) as server:
        texts = {"input": text(model, GOOD)}
        for sent, applied in (
            ({}, (True, 0.01)),
            ({"clip": None}, (True, 0.01)),
            ({"clip": 0.02}, (True, 0.02)),
            ({"normalize": False}, (False, 0.01)),
        ):
            for path, name in (("/classify", "probs"), ("/v1/embeddings", "embedding")):
                answer = server.ask(path, {**texts, **sent})[1]
                assert answer["guards"] == {"normalize": applied[0], "clip": applied[1], "abstain": None}
                assert abs(answer["data"][0][name][0]) <= applied[1] + 1e-6
            answer = server.ask("/get_reward", {"query": [text(model, GOOD)], **sent})[1]
            assert answer["guards"]["clip"] == applied[1]
