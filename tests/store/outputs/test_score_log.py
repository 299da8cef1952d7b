"""The log of scores: what a crash may leave of it, and that nothing half-written is ever read."""

import numpy as np
import pytest

from sparserm_cli.errors import CorruptStoreError
from sparserm_cli.store.outputs.score_log import ScoreLog, refused_row, scored_row, token_fields


def numbers(*values: float) -> np.ndarray:
    """Give an array as scores are."""
    return np.array(values, np.float32)


ROWS = [
    scored_row(1, None, numbers(0.5), numbers(0.75)),
    refused_row(2, "é"),
    scored_row(4, "a", numbers(1.0, np.nan), numbers(0.5, 2.0)),
]


def whole(run):
    """Write a complete log, in two appends, and return it."""
    log = ScoreLog(run, {"reward": "a"})
    log.open()
    log.append(0, ROWS[:1])
    log.append(1, ROWS[1:])
    log.finish(["digest"], "messages")
    return log


def test_rows_are_what_the_format_says():
    """A number a response, no score is null; tokens are a list a response."""
    assert ROWS[0] == {"row": 1, "scores": [0.5], "ood": [0.75]}
    assert ROWS[1] == {"row": 2, "rejected": "é"}
    assert ROWS[2] == {"row": 4, "id": "a", "scores": [1.0, None], "ood": [0.5, 2.0]}
    ids = [np.array([7], np.uint32), np.array([8, 9], np.uint32)]
    assert token_fields(ids, [None, numbers(1, 2)], "exact") == {
        "token_ids": [[7], [8, 9]],
        "token_rewards": [None, [1.0, 2.0]],
        "token_method": "exact",
    }


def test_a_log_is_read_as_it_was_written(tmp_path):
    """Rows in order, how far they go, the inputs at the end."""
    whole(tmp_path)
    log = ScoreLog(tmp_path, {"reward": "a"})
    log.open()
    assert (log.complete_to(), log.inputs, log.shape) == ((2, 4), ["digest"], "messages")
    assert list(log.rows()) == ROWS


def test_windows_come_in_any_order_and_those_given_up_are_missing(tmp_path):
    """Rows are read in the file's order; a window that failed may be added later."""
    log = ScoreLog(tmp_path, {"reward": "a"})
    log.open()
    log.append(1, ROWS[1:])
    log.give_up(0, "out of memory")
    again = ScoreLog(tmp_path, {"reward": "a"})
    again.open()
    assert (again.complete_to(), list(again.rows())) == ((0, 0), ROWS[1:])
    again.append(0, ROWS[:1])
    assert (again.complete_to(), list(again.rows())) == ((2, 4), ROWS)


def test_another_identity_is_another_log(tmp_path):
    """What the scores depend on is in the name, so nothing stale is found."""
    whole(tmp_path)
    other = ScoreLog(tmp_path, {"reward": "b"})
    other.open()
    assert (other.complete_to(), other.inputs) == ((0, 0), None)


def test_row_05_a_log_cut_at_any_byte_goes_on_to_the_same_bytes(tmp_path):
    """Wherever a crash has ended the file, whole windows stay and the rest is written again."""
    path = whole(tmp_path).path
    data = path.read_bytes()
    for cut in range(len(data)):
        path.write_bytes(data[:cut])
        log = ScoreLog(tmp_path, {"reward": "a"})
        log.open()
        windows, last = log.complete_to()
        assert (windows, last) in ((0, 0), (1, 1), (2, 4))
        assert list(log.rows()) == [row for row in ROWS if row["row"] <= last]
        for number, window in enumerate((ROWS[:1], ROWS[1:])):
            if number not in log.windows:
                log.append(number, window)
        log.finish(["digest"], "messages")
        assert path.read_bytes() == data


def test_row_06_zeros_at_the_end_are_cut_away(tmp_path):
    """What a power loss may leave after the last synced line is no line."""
    path = whole(tmp_path).path
    data = path.read_bytes()
    path.write_bytes(data + b"\0" * 64 + b"\n")
    log = ScoreLog(tmp_path, {"reward": "a"})
    log.open()
    assert path.read_bytes() == data


def test_row_10_a_damaged_line_is_no_score(tmp_path):
    """A line that is no JSON any more ends the reading with an error that names byte and window."""
    path = whole(tmp_path).path
    data = path.read_bytes()
    log = ScoreLog(tmp_path, {"reward": "a"})
    log.open()
    at = data.index(b'{"window": 1')
    path.write_bytes(data.replace(b'{"row": 4', b'["row": 4'))
    with pytest.raises(CorruptStoreError) as caught:
        list(log.rows())
    message = "expected the rows of window 1, found something else; remove it and run the command again"
    assert str(caught.value) == f"{path} (byte {at}): {message}"
