"""Token ids of some responses: each unit that holds any of them is read once."""

from pathlib import Path

import numpy as np
from helpers import planted_run as planted

from sparserm_cli.store.capture.token_ids import ids_of


def test_token_ids_of_some_responses(tmp_path: Path) -> None:
    """Across units, each with its prompt; the same as read one by one."""
    capture = planted.plant(tmp_path, prompts=40, unit_tokens=100).capture
    wanted = [3, 0, 70, 71, 3]
    ids_by_response = ids_of(capture, wanted)
    assert sorted(ids_by_response) == [0, 3, 70, 71]
    for number, ids in ids_by_response.items():
        np.testing.assert_array_equal(ids.response, capture.token_ids(number))
        prompt = int(capture.rows.response_prompt[number])
        np.testing.assert_array_equal(ids.prompt, capture.rows.prompt_ids(prompt))
    assert ids_of(capture, []) == {}
