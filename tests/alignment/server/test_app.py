"""The routes of a live server: the shapes trainers send and read, and scores as the library gives them."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers import live_server

from sparserm_cli.alignment.server import service
from sparserm_cli.config import ServeConfig
from sparserm_cli.errors import CorruptStoreError, IncompatibleError
from sparserm_cli.models.reward_model import RewardModel

PROMPT = "Question 3?"
RESPONSES = ["Yes, 3 is good", "no never", "Naïve café 🙂"]
POSTS = ("/classify", "/v1/classify", "/v1/embeddings", "/score", "/v1/score", "/get_reward")


def conversation(response: str) -> list[dict[str, str]]:
    """Return prompt and response as messages."""
    return [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": response}]


def templated(model: RewardModel, response: str) -> str:
    """Return them as a trainer posts them."""
    prompt = model.template.render(PROMPT)
    return f"{prompt}{response}<|im_end|>\n"


@pytest.fixture(scope="session")
def expected(model: RewardModel) -> list[float]:
    """Give the scores of the library."""
    return model.score([PROMPT] * 3, RESPONSES).tolist()


def ask(server: Any, path: str, body: Any) -> Any:
    """Post and expect an answer."""
    status, answer = server.ask(path, body)
    assert status == 200, answer
    return answer


@pytest.mark.parametrize("path", ["/classify", "/v1/classify"])
def test_classify_takes_what_verl_posts(
    server: Any, model: RewardModel, expected: list[float], path: str
) -> None:
    """One templated text; the score is `data[-1].probs[-1]`."""
    for response, score in zip(RESPONSES, expected, strict=True):
        body = {"model": "any", "input": templated(model, response), "use_activation": False}
        answer = ask(server, path, body)
        assert answer["data"][-1]["probs"][-1] == pytest.approx(score, abs=1e-5)
        assert (answer["object"], answer["data"][0]["num_classes"]) == ("list", 1)
        assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] > 0


def test_embeddings_are_what_sglang_answers(server: Any, model: RewardModel, expected: list[float]) -> None:
    """The score is `data[-1].embedding[-1]`, of each text or conversation."""
    for body in (
        {"model": "any", "input": [templated(model, response) for response in RESPONSES]},
        {"messages": [conversation(response) for response in RESPONSES]},
    ):
        answer = ask(server, "/v1/embeddings", body)
        np.testing.assert_allclose([entry["embedding"][-1] for entry in answer["data"]], expected, atol=1e-5)
        assert {entry["object"] for entry in answer["data"]} == {"embedding"}


def test_classify_takes_lists_and_messages(server: Any, model: RewardModel, expected: list[float]) -> None:
    """Several texts, one conversation or several: the same scores."""
    bodies = [
        {"input": [templated(model, response) for response in RESPONSES]},
        {"messages": [conversation(response) for response in RESPONSES]},
    ]
    for body in bodies:
        data = ask(server, "/classify", body)["data"]
        assert [entry["index"] for entry in data] == [0, 1, 2]
        np.testing.assert_allclose([entry["probs"][0] for entry in data], expected, atol=1e-5)
    alone = ask(server, "/classify", {"messages": conversation(RESPONSES[1])})["data"]
    assert alone[0]["probs"][0] == pytest.approx(expected[1], abs=1e-5)


def test_an_activation_is_the_logistic_function(server: Any, expected: list[float]) -> None:
    """Only where it is asked for."""
    body = {"messages": [conversation(response) for response in RESPONSES], "use_activation": True}
    data = ask(server, "/classify", body)["data"]
    probabilities = [entry["probs"][0] for entry in data]
    np.testing.assert_allclose(probabilities, 1 / (1 + np.exp(-np.array(expected))), atol=1e-5)


@pytest.mark.parametrize("path", ["/score", "/v1/score"])
@pytest.mark.parametrize("names", [("queries", "documents"), ("text_1", "text_2"), ("data_1", "items")])
def test_score_takes_what_vllm_takes(
    server: Any, expected: list[float], path: str, names: tuple[str, str]
) -> None:
    """One prompt for all responses, or one each."""
    for prompts in (PROMPT, [PROMPT], [PROMPT] * 3):
        data = ask(server, path, {names[0]: prompts, names[1]: RESPONSES})["data"]
        assert [entry["object"] for entry in data] == ["score"] * 3
        np.testing.assert_allclose([entry["score"] for entry in data], expected, atol=1e-5)


def test_get_reward_takes_what_openrlhf_posts(server: Any, model: RewardModel, expected: list[float]) -> None:
    """Rollouts that stop at their end token; with prompts or without."""
    prompt = model.template.render(PROMPT)
    queries = [f"{prompt}{response}<|im_end|>" for response in RESPONSES]
    for prompts in ([prompt] * 3, []):
        body = {"query": queries, "prompts": prompts, "labels": [None, 1, "x"]}
        answer = ask(server, "/get_reward", body)
        np.testing.assert_allclose(answer["rewards"], expected, atol=1e-5)
        assert answer["scores"] == answer["rewards"]
        assert len(answer["extra_logs"]["ood"]) == 3


def test_get_reward_answers_empty_lists(server: Any) -> None:
    """As OpenRLHF sends to all but the first of several servers."""
    answer = ask(server, "/get_reward", {"query": [], "prompts": [], "labels": []})
    assert (answer["rewards"], answer["scores"], answer["reasons"]) == ([], [], [])
    assert answer["extra_logs"] == {"ood": [], "scored": []}


@pytest.mark.parametrize("path", POSTS)
def test_token_rewards_add_up(server: Any, model: RewardModel, path: str) -> None:
    """Where they are asked for, on every route."""
    body = {
        "messages": [conversation(response) for response in RESPONSES],
        "queries": PROMPT,
        "documents": RESPONSES,
        "query": [templated(model, response) for response in RESPONSES],
        "token_rewards": True,
    }
    answer = ask(server, path, body)
    data = answer.get("data")
    names = {"score", "probs", "embedding"}
    scores = answer["rewards"] if data is None else [entry[(names & entry.keys()).pop()] for entry in data]
    tokens = answer["tokens"] if data is None else [entry["tokens"] for entry in data]
    for score, token_rewards in zip(scores, tokens, strict=True):
        assert token_rewards["method"] == "exact"
        assert len(token_rewards["ids"]) == len(token_rewards["rewards"])
        assert sum(token_rewards["rewards"]) == pytest.approx(np.ravel(score)[0], abs=2e-5)


@pytest.mark.parametrize("path", POSTS)
def test_parts_add_up(server: Any, model: RewardModel, path: str) -> None:
    """Where they are asked for, on every route; the description names the directions of each group."""
    body = {
        "messages": [conversation(response) for response in RESPONSES],
        "queries": PROMPT,
        "documents": RESPONSES,
        "query": [templated(model, response) for response in RESPONSES],
    }
    answer = ask(server, path, {**body, "parts": True})
    data = answer.get("data")
    names = {"score", "probs", "embedding"}
    scores = answer["rewards"] if data is None else [entry[(names & entry.keys()).pop()] for entry in data]
    members = answer["parts"] if data is None else [entry["parts"] for entry in data]
    groups = server.ask("/info")[1]["part_groups"]
    for score, parts in zip(scores, members, strict=True):
        assert parts["method"] == "exact"
        assert list(parts["values"]) == ["intercept", *groups]
        assert sum(parts["values"].values()) == pytest.approx(np.ravel(score)[0], abs=1e-5)
    plain = ask(server, path, body)
    assert {entry["parts"] for entry in plain["data"]} == {None} if data else plain["parts"] is None


def test_guards_of_the_server(reward: Any, model: RewardModel) -> None:
    """Normalised, clipped, and null for what is far away; token rewards are null then as well."""
    live = live_server.live
    plain = model.rewards(model.tokenize([PROMPT] * 2, ["Yes, 3 is good", "\x01\x02~~~^^^"]))
    limit = float(plain.ood.mean())
    assert plain.ood[0] < limit < plain.ood[1]
    with live(reward, normalize=True, clip=0.01, abstain=limit) as server:
        body = {"queries": PROMPT, "documents": ["Yes, 3 is good", "\x01\x02~~~^^^"], "token_rewards": True}
        near, far = ask(server, "/score", body)["data"]
        assert abs(near["score"]) == pytest.approx(0.01)
        assert sum(near["tokens"]["rewards"]) == pytest.approx(near["score"], abs=1e-6)
        assert (far["score"], far["tokens"]["rewards"]) == (None, None)
        assert far["ood"] == pytest.approx(plain.ood[1], rel=1e-4)
        assert ask(server, "/classify", {"messages": conversation("\x01\x02~~~^^^")})["data"][0]["probs"] == [
            None
        ]


def test_what_the_server_tells_about_itself(server: Any, model: RewardModel) -> None:
    """Models, info, readiness with the probe's score, metrics."""
    listed = server.ask("/v1/models")[1]["data"]
    info = server.ask("/info")[1]
    ready = server.ask("/ready")[1]
    assert [model["id"] for model in listed] == [info["model"]] == [server.service.name]
    assert info["digest"] == model.config.lineage.digest
    assert info["hook_names"] == ["blocks.1.hook_resid_post"]
    assert [row["feature"] for row in info["directions"]] == model.directions()["feature"].tolist()
    assert {row["name"] for row in info["directions"]} == {None}  # nothing describes them
    assert ready["probe"]["found"] == pytest.approx(ready["probe"]["expected"], abs=1e-4)
    assert server.ask("/health") == (200, {"status": "ok"})
    ask(server, "/score", {"queries": PROMPT, "documents": RESPONSES})
    metrics = server.ask("/metrics")[1]
    assert 'sparserm_requests_total{path="/score",status="200"}' in metrics
    assert "sparserm_waiting_tokens 0.0" in metrics
    assert "sparserm_responses_total" in metrics


def test_damaged_directions_do_not_stop_the_server(
    model: RewardModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores need nothing of them, so `/info` has no list of directions then."""

    def damaged(*_: Any) -> None:
        raise CorruptStoreError("directions", "a seal", "another", "run `sparserm select` again")

    monkeypatch.setattr(service, "direction_rows", damaged)
    assert service.listed_directions(model) is None


def test_later_responses_find_their_prompt(server: Any, model: RewardModel) -> None:
    """One by one: the first computes the prompt, the others find it; scores are as ever."""
    prompt = "A prompt of its own?"
    before = server.service._cache.hits
    scores = [
        ask(server, "/score", {"queries": prompt, "documents": response})["data"][0]["score"]
        for response in RESPONSES
    ]
    assert server.service._cache.hits == before + 2
    np.testing.assert_allclose(scores, model.score([prompt] * 3, RESPONSES), atol=1e-5)
    assert "sparserm_prompt_cache_hits" in server.ask("/metrics")[1]


BAD = [
    (b"{", 400, "the body: expected JSON, found at byte 1: expecting property name"),
    (b"\xff\xfe", 400, ""),
    (b"[1, 2", 400, "the body: expected JSON, found at byte 5: expecting ','"),
    (b"null", 422, "body"),
    (b"[]", 422, "body"),
    (b"{}", 422, "exactly one of queries, text_1, data_1 is needed"),
    (b'{"queries": 3, "documents": "x"}', 422, "body.queries"),
    (b'{"queries": ["a", "b"], "documents": ["x"]}', 422, "2 prompts for 1 responses"),
    (b'{"queries": "a", "documents": NaN}', 400, "the body: expected finite numbers, found NaN"),
    (b'{"queries": "a", "text_1": "b", "documents": "x"}', 422, "exactly one of queries, text_1, data_1"),
    (b"[" * 100_000, 400, ""),
]


@pytest.mark.parametrize(("body", "status", "said"), BAD, ids=range(len(BAD)))
def test_bad_requests_are_told_what_is_wrong(server: Any, body: bytes, status: int, said: str) -> None:
    """In one shape, and without repeating what was sent."""
    code, answer = server.ask("/score", raw=body)
    assert code == status, answer
    assert answer["error"]["code"] == status
    assert said in answer["error"]["message"]
    assert len(json.dumps(answer)) < 500


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/classify", {}, "either input or messages is needed"),
        ("/classify", {"input": "x", "messages": conversation("x")}, "either input or messages is needed"),
        ("/classify", {"messages": [{"role": "user", "content": "x"}]}, "messages"),
        ("/get_reward", {"query": ["a", "b"], "prompts": ["a"]}, "1 prompts for 2 queries"),
        ("/get_reward", {"prompts": ["a"]}, "body.query: Field required"),
    ],
)
def test_conversations_that_are_none(server: Any, path: str, body: Any, said: str) -> None:
    """Neither or both of text and messages, messages of one turn, and numbers that do not fit."""
    status, answer = server.ask(path, body)
    assert status == 422
    assert said in answer["error"]["message"]


def test_unknown_paths_and_methods(server: Any) -> None:
    """In the same shape."""
    assert server.ask("/nothing")[0] == 404
    assert server.ask("/score")[0] == 405
    assert server.ask("/nothing", {})[1]["error"]["code"] == 404


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            IncompatibleError("response 1", "finite residuals", "NaN", "use bfloat16"),
            "response 1: expected finite",
        ),
        (ArithmeticError("a detail"), "ArithmeticError"),
    ],
)
def test_a_failing_model_is_an_error_in_the_same_shape(
    reward: Any, error: Exception, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    """500 with what this program knows of it, not what others say; the next request is answered."""

    def fail(*_: Any) -> Any:
        raise error

    with live_server.live(reward) as server:
        compute, server.service._batches._compute = server.service._batches._compute, fail
        status, answer = server.ask("/score", {"queries": PROMPT, "documents": "good"})
        assert (status, answer["error"]["code"]) == (500, 500)
        assert answer["error"]["message"].startswith(said)
        assert "detail" not in answer["error"]["message"]
        server.service._batches._compute = compute
        assert server.ask("/score", {"queries": PROMPT, "documents": "good"})[0] == 200
    assert "Exception in ASGI application" in caplog.text


def test_a_model_that_scores_otherwise_is_not_served(reward: Any) -> None:
    """The probe tells."""
    pytest.importorskip("prometheus_client")
    from sparserm_cli.alignment.server.service import Service

    model = RewardModel.load(reward)
    model.config = replace(model.config, probe={**model.config.probe, "score": 99.0})
    service = Service(ServeConfig(reward=reward))
    with pytest.raises(IncompatibleError, match=r"the score of its own probe: expected 99\.0000, found"):
        service.start(model)
    assert service.closed == "the server is loading; try again"
