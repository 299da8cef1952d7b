"""Files of JSON lines: what they replace is said, and stdout replaces nothing."""

from helpers.fitted_run import write_rows

from sparserm_cli.alignment.response_choice.pairs import pairs
from sparserm_cli.alignment.response_choice.rank import rank
from sparserm_cli.config import PairsConfig, RankConfig, ScoreConfig
from sparserm_cli.stages.score.score import score
from sparserm_cli.store.outputs.json_lines import STDOUT, replacement_note, writing_lines


def test_what_is_replaced_is_said(tmp_path):
    """There is no sentence for a new file or for stdout."""
    path = tmp_path / "new" / "scores.jsonl"
    assert replacement_note(path, "scores") is None
    assert replacement_note(STDOUT, "scores") is None
    with writing_lines(path) as write:
        write({"score": 1.5})
    assert path.read_text() == '{"score": 1.5}\n'
    sentence = f"{path}: earlier scores are replaced; --output keeps them apart"
    assert replacement_note(str(path), "scores") == sentence


def test_every_command_that_replaces_says_so(fitted_run, tmp_path):
    """`score`, `rank` and `pairs` have the same sentence."""
    file = write_rows(tmp_path / "rows.jsonl", [{"prompt": "Why?", "responses": ["good good", "poor"]}])
    place = {"file": file, "run": tmp_path / "run", "reward": fitted_run / "reward"}
    for command, config in (
        (score, ScoreConfig(**place)),
        (rank, RankConfig(**place)),
        (pairs, PairsConfig(**place)),
    ):
        notes: list[str] = []
        for _ in range(2):
            command(config, progress=lambda _done, _total: None, note=notes.append)
        assert sum("are replaced; --output keeps them apart" in sentence for sentence in notes) == 1, command
