"""What is printed where, and how numbers are written."""

import json
from types import SimpleNamespace

import pytest

from sparserm_cli import console
from sparserm_cli.console import Output
from sparserm_cli.errors import UsageError
from sparserm_cli.formatting import duration, size


def test_result_goes_to_stdout_notes_to_stderr(capsys):
    """The result alone is on stdout."""
    out = Output()
    out.note("in passing")
    out.result({"n": 1}, "one")
    assert capsys.readouterr() == ("one\n", "in passing\n")


def test_json_is_one_strict_object(capsys):
    """NaN has no word in JSON and becomes null."""
    Output(as_json=True).result({"n": float("nan"), "list": [1.5, float("inf")]}, "unused")
    assert json.loads(capsys.readouterr().out) == {"n": None, "list": [1.5, None]}


def test_quiet_says_nothing_but_the_result(capsys):
    """Quiet silences notes and progress."""
    out = Output(quiet=True)
    out.note("in passing")
    with out.progress("work", "rows") as update:
        update(1, 2)
    out.result({}, "done")
    assert capsys.readouterr() == ("done\n", "")


def test_table_is_plain_text_or_json(capsys):
    """A table prints its cells; with --json the data behind it."""
    Output().table({"a": 1}, "", ["name", "n"], [["first", "10"], ["second", "2"]])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [["name", "n"], ["first", "10"], ["second", "2"]]
    Output(as_json=True).table({"a": 1}, "", ["name"], [["x"]])
    assert json.loads(capsys.readouterr().out) == {"a": 1}


def test_progress_lines_in_a_log(capsys, monkeypatch):
    """Without a terminal a line says how far, how fast and how long."""
    clock = iter([0.0, 0.0, 20.0])
    monkeypatch.setattr(console, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with Output().progress("extract", "tokens") as update:
        update(0, 1000)
        update(200, 1000)
    assert capsys.readouterr().err == "extract: 200 of 1,000 tokens, 10/s, 1 min 20 s left\n"


def test_a_log_hears_of_work_that_does_not_advance(capsys, monkeypatch):
    """A thread says that the work goes on, although nothing is reported, and stops with it."""
    monkeypatch.setattr(console._LineProgress, "patience", 0.01)
    with Output().progress("encode", "tokens"):
        seen = ""
        while seen.count("\n") < 2:
            seen += capsys.readouterr().err
    assert set(seen.splitlines()) == {"encode: at work, 0 s elapsed"}


def test_an_error_is_one_line(capsys):
    """Line breaks in an error's text would break what scripts read."""
    problem = UsageError("--x", "a", "b\nc", "correct it")
    console.error(problem)
    assert capsys.readouterr() == ("", "sparserm: --x: expected a, found b c; correct it\n")


@pytest.mark.parametrize(
    ("count", "text"), [(12, "12 B"), (2048, "2.0 KiB"), (5 * 2**30, "5.0 GiB"), (3 * 2**40, "3.0 TiB")]
)
def test_size(count, text):
    """Sizes are in powers of 1,024."""
    assert size(count) == text


@pytest.mark.parametrize(("seconds", "text"), [(8.4, "8 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")])
def test_duration(seconds, text):
    """Times have at most two parts."""
    assert duration(seconds) == text


def test_phases_name_the_work(capsys, monkeypatch):
    """A new phase starts a new line of progress; a figure after a comma does not."""
    clock = iter([0.0, 0.0, 20.0, 30.0, 30.0, 50.0])
    monkeypatch.setattr(console, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with Output().phases("rows") as say:
        say("reading", 0, 0)
        say("reading", 200, 0)
        say("training, loss 2", 0, 100)
        say("training, loss 1", 50, 100)
    assert capsys.readouterr().err.splitlines() == [
        "reading: 200 rows, 10/s",
        "training: 50 of 100 rows, 2/s, 20 s left",
    ]


HOSTILE = "\x1b]0;x\x07a\x9b2Jb\rc\u202ed\ud800e\x7f"
TAME = r"\u001b]0;x\u0007a\u009b2Jb\u000dc\u202ed\ud800e\u007f"


def test_row_89_no_name_steers_the_terminal(capsys):
    """Whatever is printed wherever: results, tables, notes, progress and errors."""
    out = Output()
    out.result({}, HOSTILE)
    out.table({}, HOSTILE, [HOSTILE], [[f"{HOSTILE}\nforged"]])
    out.note(HOSTILE)
    console.error(UsageError(f"{HOSTILE}\nforged", "a", "b", "c"))
    printed, said = capsys.readouterr()
    lines = [line.strip() for line in printed.splitlines()]
    assert lines == [TAME, TAME, TAME, f"{TAME} forged"]
    assert said == f"{TAME}\nsparserm: {TAME} forged: expected a, found b; c\n"


def test_row_89_json_keeps_the_value(capsys):
    """Spelled in ASCII where a terminal would obey it."""
    Output(as_json=True).result({"name": HOSTILE, "word": "größer"}, "")
    printed = capsys.readouterr().out
    assert printed == '{"name": "' + TAME.replace(r"\u000d", r"\r") + '", "word": "größer"}\n'
    assert json.loads(printed) == {"name": HOSTILE, "word": "größer"}


def test_row_89_colours_of_our_own_stay(capsys):
    """The tokens of an explanation, whose texts have been made plain."""
    Output().result({}, "\x1b[31mred\x1b[0m", styled=True)
    assert capsys.readouterr().out == "\x1b[31mred\x1b[0m\n"
