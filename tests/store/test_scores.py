"""The lines of scores.jsonl."""

import numpy as np

from sparserm_cli.store.scores import score_line, token_fields


def numbers(*values: float) -> np.ndarray:
    """Give an array as scores are."""
    return np.array(values, np.float32)


def test_one_response_has_a_score():
    """The common case is flat."""
    expected = {"row": 3, "id": "a", "score": 1.5, "ood": 0.5}
    assert score_line(3, "a", numbers(1.5), numbers(0.5)) == expected


def test_several_responses_keep_their_order():
    """Groups of responses come back as they were; no score is null."""
    line = score_line(1, None, numbers(1, np.nan), numbers(0.5, 3))
    assert line == {"row": 1, "scores": [1.0, None], "ood": [0.5, 3.0]}


def test_tokens_of_one_response_are_flat():
    """Like its score."""
    line = token_fields([np.array([7, 8], np.uint32)], [numbers(1, 2)], "exact")
    assert line == {"token_ids": [7, 8], "token_rewards": [1.0, 2.0], "token_method": "exact"}


def test_tokens_of_several_responses_keep_their_order():
    """A response without a score has no token rewards either."""
    ids = [np.array([7], np.uint32), np.array([8, 9], np.uint32)]
    line = token_fields(ids, [None, numbers(1, 2)], "exact")
    assert (line["token_ids"], line["token_rewards"]) == ([[7], [8, 9]], [None, [1.0, 2.0]])
