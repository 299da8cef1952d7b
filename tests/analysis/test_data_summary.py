"""What `data` tells of a file, and that what it writes is read back as the same pairs."""

import json
from pathlib import Path

import pytest
from helpers.data_cases import SHAPE_CASES, TRAP_CASES, case_file

from sparserm_cli.analysis.data_summary import summarise_data
from sparserm_cli.cli.output import data as show
from sparserm_cli.config.data import DataConfig
from sparserm_cli.console import Output
from sparserm_cli.data.example import Message, plain_prompt
from sparserm_cli.data.reader import Reader
from sparserm_cli.errors import BadInputError

NAMES = [f"shapes/{name}" for name in SHAPE_CASES] + [f"data/{name}" for name in TRAP_CASES]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_is_read_as_the_same_pairs(name: str, tmp_path: Path):
    """Prompt and responses of every pair survive, their tool calls and reasoning too."""
    source, output = case_file(name, tmp_path), tmp_path / "out.jsonl"
    summary = summarise_data(DataConfig(data=str(source), output=str(output)))
    expected = []
    for example in Reader(source, purpose="pairs"):
        prompt = plain_prompt(example.prompt)
        turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        pairs = [(example.message(good), example.message(bad)) for good, bad in example.pairs]
        expected += [(turns, *pair, example.tools) for pair in pairs if pair[0] != pair[1]]
    assert summary.written == len(expected) == summary.pairs - summary.identical
    assert summary.accepted + summary.rejected == summary.read
    if not expected:
        return
    again = [
        (plain_prompt(example.prompt), example.message(0), example.message(1), example.tools)
        for example in Reader(output, purpose="pairs")
    ]
    assert again == expected
    assert set(json.loads(output.read_text().splitlines()[0])) - {"tools"} == {"prompt", "chosen", "rejected"}


ROWS = [
    {"prompt": "a?", "chosen": "b", "rejected": "c", "note": 1},
    {"prompt": "a?", "chosen": "b", "rejected": "c"},
    {"prompt": "a?", "chosen": "c", "rejected": "b"},
    {"prompt": "d?", "chosen": "<|im_start|>b", "rejected": "<|im_start|>b", "margin": 2},
    {"prompt": "e?"},
]


def test_counts_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Identical, duplicate and contradictory pairs; rows add up; the words say the same as the fields."""
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    summary = summarise_data(DataConfig(data=str(path)))
    counts = (summary.read, summary.accepted, summary.rejected, summary.pairs, summary.prompts)
    assert counts == (5, 4, 1, 4, 2)
    assert (summary.identical, summary.duplicate, summary.contradictory) == (1, 1, 1)
    assert (summary.ignored, summary.margins, summary.templated) == ({"note": 1}, 1, 1)
    assert (len(summary.first), summary.first[0]["pairs"]) == (3, [[0, 1]])
    show.data(Output(), summary, None)
    assert capsys.readouterr().out.splitlines()[:9] == [
        f"{path}: shape preference: prompt, chosen, rejected; ignored: note",
        "5 rows read: 4 accepted, 1 rejected",
        'rejected: row 5, field chosen: expected the column, found only "prompt"',
        "4 pairs of 2 prompts: 1 identical, 1 duplicate, 1 contradictory",
        "1 pairs say by how much one response is better",
        "1 rows hold marks of a chat template; if it is the model's own, their text is taken as it is",
        "row 1",
        "    user: a?",
        "  + assistant: b",
    ]


def test_rows_without_labels_are_shown_and_never_written(tmp_path: Path):
    """Responses to score have no pairs."""
    path = tmp_path / "responses.jsonl"
    path.write_text('{"prompt": "a?", "responses": ["b", "c"]}\n')
    summary = summarise_data(DataConfig(data=str(path)))
    assert (summary.labelled, summary.responses, summary.pairs) == (False, 2, 0)
    assert summary.first[0]["responses"][1] == Message("assistant", "c").plain()
    with pytest.raises(BadInputError, match="expected rows that prefer a response, found rows that do not"):
        summarise_data(DataConfig(data=str(path), output="-"))
