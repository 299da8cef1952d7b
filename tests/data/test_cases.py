"""Every file of the cases is read without options, right, or is refused in one line that says what to do."""

from pathlib import Path
from typing import Any

import pytest
from helpers.data_cases import FILES, SHAPE_CASES, TRAP_CASES, Case, case_file

from sparserm_cli.data.example import Example
from sparserm_cli.data.reader import Reader
from sparserm_cli.errors import BadInputError, UsageError

CASES = {f"shapes/{name}": case for name, case in SHAPE_CASES.items()} | {
    f"data/{name}": case for name, case in TRAP_CASES.items()
}
REFUSED = ("data/e2_image_parts.jsonl", "data/k2_csv_json_messages.csv")


def read(name: str, folder: Path, **options: Any) -> tuple[Reader, list[Example]]:
    """Read a file of the cases for its pairs."""
    reader = Reader(case_file(name, folder), **{"purpose": "pairs", **options})
    return reader, list(reader)


def test_every_file_of_the_cases_is_here():
    """A file that nobody looks at would prove nothing."""
    named = {*CASES, *REFUSED, "templates/gemma_like.jinja", "templates/qwen3_like.jinja"}
    assert {name for name in FILES if not name.startswith("data/shards/")} == named - {"data/shards"}


@pytest.mark.parametrize("name", CASES)
def test_file_is_read_without_options(name: str, tmp_path: Path):
    """Shape, prompt, responses, sides, margins and what is ignored; every row is accepted."""
    reader, examples = read(name, tmp_path)
    first = examples[0]
    prompt = first.prompt if isinstance(first.prompt, str) else [turn[:2] for turn in first.prompt]
    case = Case(
        reader.shape, prompt, first.responses, first.sides, first.margins, " ".join(set(reader.ignored))
    )
    assert case._replace(ignored="") == CASES[name]._replace(ignored="")
    assert set(reader.ignored) - {"id"} == set(CASES[name].ignored.split())
    rows = sum(len(FILES[key]) for key in FILES if key == name or key.startswith(f"{name}/"))
    if not name.endswith((".csv", ".tsv", ".gz")):
        assert reader.read == rows
    assert (reader.accepted, reader.rejected) == (reader.read, 0)
    assert sum(example.rows for example in examples) == reader.read


def refusal(name: str, folder: Path, **options: Any) -> str:
    """Return why a file is refused, from the field on."""
    with pytest.raises((BadInputError, UsageError)) as caught:
        read(name, folder, **options)
    return str(caught.value)


def test_pictures_are_refused_by_name(tmp_path: Path):
    """The words alone would be another question."""
    name = "data/e2_image_parts.jsonl"
    assert 'field images: expected a row of text alone, found the column "images"' in refusal(name, tmp_path)


def test_messages_in_cells_are_parsed_and_another_question_beside_them_is_refused(tmp_path: Path):
    """The second row's cell has the history of another prompt."""
    name = "data/k2_csv_json_messages.csv"
    assert "row 2 (byte 222), field chosen: expected one assistant turn after the prompt" in refusal(
        name, tmp_path
    )
    reader, (example,) = read(name, tmp_path, on_bad_row="reject")
    assert (example.responses, reader.parsed) == (("Yes.", "No."), 1)
    assert (reader.read, reader.accepted, reader.rejected) == (2, 1, 1)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"prompt": "qestion"},
            "expected a column of {}, which has question, chosen, rejected, found none of the name qestion",
        ),
        ({"promt": "question"}, 'found "promt"; use --column prompt=question'),
    ],
)
@pytest.mark.parametrize("on_bad_row", ["error", "reject"])
def test_a_mapped_column_that_is_not_there_is_refused(
    columns: dict[str, str], message: str, on_bad_row: str, tmp_path: Path
):
    """Read as if nothing was mapped, three questions would become one prompt."""
    name = "data/typo2.jsonl"
    shown = refusal(name, tmp_path, columns=columns, on_bad_row=on_bad_row)
    assert message.format(tmp_path / name) in shown


def test_a_column_that_may_be_the_question_is_never_guessed_away(tmp_path: Path):
    """Of an unknown name, it is refused with two lines that work, each of which then does."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"q": "Which city?", "chosen": "It is Paris.", "rejected": "It is Lyon."}\n')
    with pytest.raises(BadInputError) as caught:
        list(Reader(path, purpose="pairs"))
    assert str(caught.value) == (
        f"{path}:line 1 (byte 0), field prompt: expected a column that holds the prompt: say which with "
        "--column prompt=q, or --column prompt=chosen if both responses begin with it, "
        "found only q, chosen, rejected; repair the row, or use --on-bad-row reject"
    )
    (example,) = Reader(path, purpose="pairs", columns={"prompt": "q"})
    assert (example.prompt, example.responses) == ("Which city?", ("It is Paris.", "It is Lyon."))
    (inside,) = Reader(path, purpose="pairs", columns={"prompt": "chosen"})
    assert (inside.prompt, inside.responses) == ("It is", (" Paris.", " Lyon."))


@pytest.mark.parametrize(
    ("name", "columns", "responses"),
    [
        ("shapes/pku_saferlhf.jsonl", {"winner": "better_response_id"}, None),
        ("shapes/helpsteer2.jsonl", {"rating": "complexity"}, "tie"),
        ("shapes/ultrafeedback_raw.jsonl", {"scores": "completions[].fine-grained_score"}, None),
        ("data/k14_truthfulqa_hf_mc.jsonl", {"targets": "mc1_targets"}, ("Yes", "No")),
    ],
)
def test_another_label_decides_if_asked_for(
    name: str, columns: dict[str, str], responses: Any, tmp_path: Path
):
    """The default is said with what else there is; `--column` takes the other."""
    notes: list[str] = []
    read(name, tmp_path, note=notes.append)
    ((ours, theirs),) = columns.items()
    assert f"{theirs}" in notes[0].partition("says what is better (")[2]
    assert f"--column {ours}=NAME" in notes[0]
    _, examples = read(name, tmp_path, columns=columns)
    assert examples[0].undecided == (responses if responses == "tie" else "")
    if isinstance(responses, tuple):
        assert examples[0].responses == responses


def test_identical_pairs_differ_by_what_they_call_and_think(tmp_path: Path):
    """Two answers of the same words that call other tools or reason otherwise are two answers."""
    for name in ("data/c5_response_tool_call_same_text.jsonl", "data/d2_thinking_only_differs.jsonl"):
        assert read(name, tmp_path)[0].identical_pairs == 0
    assert read("data/identical.jsonl", tmp_path)[0].identical_pairs == 2


def test_ids_are_any_scalar(tmp_path: Path):
    """An object names nothing, and is no id."""
    names = ("data/i1_float_id.jsonl", "data/i2_object_id.jsonl", "data/i3_bool_id.jsonl")
    assert [read(name, tmp_path)[1][0].id for name in names] == ["1.0", None, "true"]


def test_rows_of_several_files_are_named_by_file(tmp_path: Path):
    """Numbers go on from file to file; an error names the file and the row in it."""
    folder = case_file("data/shards", tmp_path)
    first = (folder / "train-00000-of-00002.parquet").read_bytes()
    (folder / "train-00002-of-00003.parquet").write_bytes(first)
    reader = Reader(folder, purpose="pairs")
    assert [example.row for example in reader] == [1, 2, 3]
    assert [Path(item.path).name[:11] for item in reader.inputs] == [
        "train-00000",
        "train-00001",
        "train-00002",
    ]
    lines = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    lines[0].write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    lines[1].write_text('{"prompt": "a", "chosen": "b"}\n')
    for source in (f"{lines[0]},{lines[1]}", str(tmp_path / "?.jsonl")):
        with pytest.raises(BadInputError, match=r"b\.jsonl:line 1 \(byte 0\), field rejected"):
            list(Reader(source, purpose="pairs"))
