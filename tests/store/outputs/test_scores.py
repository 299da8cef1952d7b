"""The lines of scores.jsonl."""

from sparserm_cli.store.outputs.scores import score_line


def test_one_response_has_a_score():
    """The common case is flat, tokens as well."""
    row = {"row": 3, "id": "a", "scores": [1.5], "ood": [0.5]}
    assert score_line(row) == {"row": 3, "id": "a", "score": 1.5, "ood": 0.5}
    tokens = {"token_ids": [[7, 8]], "token_rewards": [[1.0, 0.5]], "token_method": "exact"}
    flat = {"token_ids": [7, 8], "token_rewards": [1.0, 0.5], "token_method": "exact"}
    assert score_line(row | tokens) == score_line(row) | flat


def test_several_responses_keep_their_order():
    """Groups of responses come back as they were; no score is null."""
    row = {"row": 1, "scores": [1.0, None], "ood": [0.5, 3.0]}
    assert score_line(row) == row
