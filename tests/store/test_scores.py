"""The lines of scores.jsonl."""

import numpy as np

from sparserm_cli.store.scores import score_line


def test_one_response_has_a_score():
    """The common case is flat."""
    assert score_line(3, "a", np.array([1.5], np.float32)) == {"row": 3, "id": "a", "score": 1.5}


def test_several_responses_keep_their_order():
    """Groups of responses come back as they were."""
    line = score_line(1, None, np.array([1.0, -2.0], np.float32))
    assert line == {"row": 1, "scores": [1.0, -2.0]}
