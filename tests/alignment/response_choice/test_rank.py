"""rank on a tiny reward model: order, resuming, counts."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import fitted_run as fitted

from sparserm_cli.alignment.response_choice.rank import rank
from sparserm_cli.alignment.response_choice.scored_rows import score_file
from sparserm_cli.config import RankConfig
from sparserm_cli.errors import BadInputError, IncompatibleError, TemporaryError
from sparserm_cli.models.reward_model import RewardModel
from sparserm_cli.stages.score import windows as scoring
from sparserm_cli.store.run.locks import lock

QUIET, write = fitted.QUIET, fitted.write_rows
GROUPS = [
    {"id": f"g{n}", "prompt": f"New {n}?", "responses": ["poor", "good " * (n + 1), "so so"]}
    for n in range(12)
]


def lines(path):
    """Return the objects of a file of JSON lines."""
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def ranked(run, folder, rows, **options):
    """Rank rows in a run directory of their own and return what it says and what it wrote."""
    file = write(folder / "g.jsonl", rows)
    config = RankConfig(file=file, run=folder / "run", reward=run / "reward", **options)
    summary = rank(config, **QUIET)
    return summary, lines(summary.output)


def test_order_and_best_by_hand(fitted_run, tmp_path):
    """Ids and rows are kept, the order is that of the model's own scores, the best is its first."""
    summary, rankings = ranked(fitted_run, tmp_path, GROUPS)
    model = RewardModel.load(fitted_run / "reward")
    assert [line["id"] for line in rankings] == [row["id"] for row in GROUPS]
    assert [line["row"] for line in rankings] == list(range(1, 13))
    for line, row in zip(rankings, GROUPS, strict=True):
        expected = model.score([row["prompt"]] * 3, row["responses"])
        np.testing.assert_allclose(line["scores"], expected, atol=1e-4)
        assert line["order"] == np.argsort(-expected, kind="stable").tolist()
        assert line["response"] == row["responses"][line["order"][0]]
        assert line["score"] == max(line["scores"])
        assert line["prompt"] == row["prompt"]
    assert summary.best == pytest.approx(np.mean([line["score"] for line in rankings]))
    assert summary.mean == pytest.approx(np.mean([line["scores"] for line in rankings]))


def test_equal_scores_keep_the_order_of_the_row(fitted_run, tmp_path):
    """Two equal responses are a tie, and the first one wins."""
    _, rankings = ranked(fitted_run, tmp_path, [{"prompt": "a", "responses": ["x", "x", "x"]}])
    assert rankings[0]["order"] == [0, 1, 2]


def test_bad_rows_are_counted_and_leave_the_others(fitted_run, tmp_path):
    """Accepted and rejected rows add up to the rows read, whatever is wrong and wherever it is found."""
    rows = [GROUPS[0], {"prompt": "a"}, "{", {"prompt": "a", "responses": ["x" * 600]}, GROUPS[1]]
    with pytest.raises(BadInputError, match=r"g\.jsonl:line 2"):
        ranked(fitted_run, tmp_path, rows)
    summary, rankings = ranked(fitted_run, tmp_path, rows, on_bad_row="reject")
    assert (summary.accepted, summary.rejected) == (2, 3)
    assert [line["row"] for line in rankings] == [1, 5]


@pytest.mark.slow
def test_row_05_a_killed_run_goes_on_where_it_was(fitted_run, tmp_path, monkeypatch):
    """After a real SIGKILL no ranking is there; the next run computes only what is missing."""
    rows = [*GROUPS[:3], {"prompt": "bad"}, *GROUPS[3:]]
    file = write(tmp_path / "g.jsonl", rows)
    words = ["rank", file, "--run", str(tmp_path / "run"), "--reward", str(fitted_run / "reward")]
    fitted.killed([*words, "--on-bad-row", "reject", "--deterministic"], "scores-appended:4")
    assert not (tmp_path / "run" / "ranking.jsonl").exists()
    computed = []
    real = scoring.scored_window
    monkeypatch.setattr(scoring, "scored_window", lambda *args: computed.extend(args[1]) or real(*args))
    notes = []
    exact = {"on_bad_row": "reject", "deterministic": True}
    config = RankConfig(file=file, run=tmp_path / "run", reward=fitted_run / "reward", **exact)
    summary = rank(config, progress=QUIET["progress"], note=notes.append)
    # What was appended: the head, rows 1 and 2, rows 3 to 5 of which one is bad, rows 6 and 7.
    assert len(computed) == len(GROUPS) - 6
    assert notes[0].startswith("scores up to row 7 are known from ")
    assert (summary.accepted, summary.rejected) == (12, 1)
    (tmp_path / "again").mkdir()
    _, never_killed = ranked(fitted_run, tmp_path / "again", rows, **exact)
    assert lines(summary.output) == never_killed


def test_known_scores_are_not_computed_again(fitted_run, tmp_path, monkeypatch):
    """The second command on the same file needs no model."""
    _, first = ranked(fitted_run, tmp_path, GROUPS[:2])
    monkeypatch.setattr(scoring, "load_reward", None)
    _, again = ranked(fitted_run, tmp_path, GROUPS[:2])
    assert again == first


def test_data_that_change_meanwhile_are_noticed(fitted_run, tmp_path):
    """Between scoring and reading again nobody may touch the file."""
    file = Path(write(tmp_path / "g.jsonl", GROUPS[:2]))
    config = RankConfig(file=str(file), run=tmp_path / "run", reward=fitted_run / "reward")
    scored_rows = score_file(config, **QUIET)
    file.write_text(file.read_text().replace("so so", "sosos"))
    with pytest.raises(IncompatibleError, match="expected the data that were scored, found another content"):
        list(scored_rows)
    file.write_text(file.read_text().splitlines()[0] + "\n")
    with pytest.raises(IncompatibleError, match="expected the data that were scored, found another row 2"):
        list(scored_rows)


def test_row_08_two_runs_on_one_file(fitted_run, tmp_path):
    """The second one is told who is at work."""
    ranked(fitted_run, tmp_path, GROUPS[:2])
    log = next((tmp_path / "run" / "scored").glob("*.jsonl"))
    with lock(log.parent, f"{log.stem}.lock"), pytest.raises(TemporaryError, match="no other run at work"):
        ranked(fitted_run, tmp_path, GROUPS[:2])


def test_rows_of_one_response_each_are_ranked_by_prompt(fitted_run, tmp_path):
    """Rows of one prompt next to each other are ranked as if they were one row; a bad one is counted."""
    whole, expected = ranked(fitted_run, tmp_path, GROUPS[:2])
    single = [
        {"prompt": row["prompt"], "response": response} for row in GROUPS[:2] for response in row["responses"]
    ]
    rows = [*single[:2], {"prompt": single[0]["prompt"]}, *single[2:]]
    summary, rankings = ranked(fitted_run, tmp_path, rows, on_bad_row="reject")
    assert [line["row"] for line in rankings] == [1, 5]
    fields = ("response", "order")
    assert [[line[key] for key in fields] for line in rankings] == [
        [line[key] for key in fields] for line in expected
    ]
    assert (summary.accepted, summary.rejected, summary.responses) == (6, 1, 6)
    assert (summary.best, summary.mean) == pytest.approx((whole.best, whole.mean))
