"""Text Embeddings Inference's predict and rerank: its shapes, and scores as the library gives them."""

from typing import Any

import numpy as np
import pytest

from sparserm_cli import RewardModel

PROMPT = "Question 3?"
RESPONSES = ["Yes, 3 is good", "no never", "Naïve café 🙂"]


@pytest.fixture(scope="module")
def expected(model: RewardModel) -> list[float]:
    """Give the scores of the library."""
    return model.score([PROMPT] * 3, RESPONSES).tolist()


def ask(server: Any, path: str, body: Any) -> Any:
    """Post and expect an answer."""
    status, answer = server.ask(path, body)
    assert status == 200, answer
    return answer


def test_predict_takes_a_text_a_pair_or_a_list(
    server: Any, model: RewardModel, expected: list[float]
) -> None:
    """One input is answered with its classes, several with a list of them."""
    text = f"{model.template.render(PROMPT)}{RESPONSES[0]}<|im_end|>\n"
    for inputs in (text, [text], [PROMPT, RESPONSES[0]]):
        (predictions,) = ask(server, "/predict", {"inputs": inputs, "raw_scores": True})
        assert predictions == {
            "score": pytest.approx(expected[0], abs=1e-5),
            "label": "reward",
            "reason": None,
        }
    several = [[text], *([PROMPT, response] for response in RESPONSES[1:])]
    predictions = ask(server, "/predict", {"inputs": several, "raw_scores": True})
    np.testing.assert_allclose([prediction["score"] for (prediction,) in predictions], expected, atol=1e-5)


def test_rerank_sorts_the_best_first(server: Any, expected: list[float]) -> None:
    """With the text where it is asked for; what cannot be scored comes last."""
    texts = [RESPONSES[0], "half \ud800", *RESPONSES[1:]]
    scores = [expected[0], -np.inf, *expected[1:]]
    order = sorted(range(4), key=lambda index: -scores[index])
    ranked = ask(
        server, "/rerank", {"query": PROMPT, "texts": texts, "raw_scores": True, "return_text": True}
    )
    assert [entry["index"] for entry in ranked] == order
    assert [entry["text"] for entry in ranked] == [*(texts[index] for index in order[:3]), None]
    np.testing.assert_allclose(
        [entry["score"] for entry in ranked[:3]], sorted(expected, reverse=True), atol=1e-5
    )
    assert ranked[3]["score"] is None
    assert ranked[3]["reason"] == "expected Unicode text, found a lone surrogate U+D800"
    bare = ask(server, "/rerank", {"query": PROMPT, "texts": texts, "raw_scores": True})
    assert [entry["text"] for entry in bare] == [None] * 4


def test_scores_are_logistic_unless_raw(server: Any, expected: list[float]) -> None:
    """As there."""
    logistic = 1 / (1 + np.exp(-np.array(expected)))
    ranked = ask(server, "/rerank", {"query": PROMPT, "texts": RESPONSES})
    scores = {entry["index"]: entry["score"] for entry in ranked}
    np.testing.assert_allclose([scores[index] for index in range(3)], logistic, atol=1e-5)
    (single,) = ask(server, "/predict", {"inputs": [PROMPT, RESPONSES[1]]})
    assert single["score"] == pytest.approx(logistic[1], abs=1e-5)


def test_row_71_tei_truncates_on_the_left_alone(server: Any) -> None:
    """On the right it would cut the end of the response, which is refused by name."""
    body = {"query": "old " * 200, "texts": [RESPONSES[0]], "raw_scores": True}
    assert "expected at most 512 tokens" in ask(server, "/rerank", body)[0]["reason"]
    cut = ask(server, "/rerank", {**body, "truncate": True, "truncation_direction": "Left"})
    assert cut[0]["score"] is not None
    for direction in ({}, {"truncation_direction": "right"}):
        status, answer = server.ask("/rerank", {**body, "truncate": True, **direction})
        assert status == 422
        assert 'truncate is known with "truncation_direction": "left" alone' in answer["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/predict", {"inputs": []}),
        ("/predict", {"inputs": ["a", "b", "c"]}),
        ("/predict", {"inputs": [["a", "b", "c"]]}),
        ("/predict", {"inputs": [[]]}),
        ("/predict", {"inputs": [1, 2]}),
        ("/predict", {}),
        ("/rerank", {"query": "a", "texts": []}),
        ("/rerank", {"query": "a"}),
        ("/rerank", {"query": ["a"], "texts": ["b"]}),
    ],
)
def test_what_is_neither(server: Any, path: str, body: Any) -> None:
    """422 in the shape of every error."""
    status, answer = server.ask(path, body)
    assert (status, answer["error"]["code"]) == (422, 422)
