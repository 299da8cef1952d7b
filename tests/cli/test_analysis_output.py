"""`explain` and `report` as commands: words, marks and colours for people, JSON for scripts."""

import io
import json
import shutil
import sys

import pytest
from helpers import tiny_run
from typer.testing import CliRunner

from sparserm_cli.cli.main import app
from sparserm_cli.cli.output import analysis as look_reports
from sparserm_cli.console import Output
from sparserm_cli.formatting import size
from sparserm_cli.models.explanation import DirectionShare, Explanation, TokenShare

TOKENS = (
    TokenShare("Good", 1, 0.6),
    TokenShare(" and", 2, 0.09),
    TokenShare("\n", 3, -0.31),
    TokenShare("b\x1b[0mad", 4, -0.5),
    TokenShare("", 5, 0.2),
    TokenShare("é", 6, 0.2),
)


def explanation(method="exact", **changes):
    """Give a made-up explanation with three directions."""
    directions = (
        DirectionShare(14, "mean", 77, 1, 0.5, 0.25, 1.5, 2.0),
        DirectionShare(14, "last", None, -1, None, None, -0.5, -1.0),
        DirectionShare(14, "mean", 5, -1, 0.125, 0.25, 0.25, 0.25),
    )
    base = Explanation(3, 2, "Why?", "…", 1.75, 0.5, method, 0.0, "both", directions, TOKENS)
    return base._replace(**changes)


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_model):
    """Give a run to look at."""
    return tiny_run.tiny_run(tmp_path_factory.mktemp("run"), tiny_model())


def sparserm(*words):
    """Run a command in this process."""
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


def test_explain_shows_directions_and_marked_tokens(run):
    """The table adds up line by line, and the response can be read with its marks taken out."""
    done = sparserm(
        "explain", run.parent / "pairs.jsonl", "--row", 8, "--response", 2, "--top", 3, "--run", run
    )
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[0].startswith("score ")
    assert lines[0].endswith(" of response 2 of row 8 (exact)")
    assert " ".join(lines[1].split()) == "direction layer feature on chosen on rejected sd adds"
    parts = [float(line.split()[-1]) for line in lines[2:7]]
    assert lines[5].startswith("5 more ")
    assert lines[6].startswith("mean training response ")
    assert sum(parts) == pytest.approx(float(lines[0].split()[1]), abs=3e-4)
    text = done.stdout[done.stdout.index("lowers it\n") + len("lowers it\n") :]
    for strength in (3, 2, 1):
        text = text.replace("{" + "+" * strength + "}", "").replace("{" + "-" * strength + "}", "")
    assert text == tiny_run.ROWS[7]["rejected"] + "\n"
    assert "explaining with" in done.stderr


def test_explain_gives_one_json_object(run):
    """All directions and all tokens, whatever --top says; nothing else on stdout."""
    words = (
        "explain",
        "--prompt",
        "Why?",
        "--response-text",
        "So.",
        "--top",
        1,
        "--run",
        run,
        "--json",
        "--quiet",
    )
    done = sparserm(*words)
    assert done.stderr == ""
    explanation = json.loads(done.stdout)
    assert len(explanation["directions"]) == 8
    assert [token["text"] for token in explanation["tokens"]] == ["S", "o", "."]
    assert set(explanation["directions"][0]) == set(DirectionShare._fields)
    whole = explanation["intercept"] + sum(share["contribution"] for share in explanation["directions"])
    assert whole == pytest.approx(explanation["score"], abs=1e-5)
    assert sum(token["contribution"] for token in explanation["tokens"]) == pytest.approx(
        explanation["score"], abs=1e-5
    )


def test_report_writes_a_page_and_says_where(run, tmp_path):
    """The summary names what is missing and the notes say why."""
    done = sparserm("report", "--run", run, "--output", tmp_path / "page.html")
    assert done.exit_code == 0
    written = size((tmp_path / "page.html").stat().st_size)
    said = f"{tmp_path / 'page.html'}: {written}, 40 stored pairs scored; not shown: evaluation\n"
    assert done.stdout == said
    assert "not shown (evaluation): no held-out evaluation: run `sparserm evaluate FILE` first" in done.stderr


def test_report_gives_one_json_object(run, tmp_path):
    """Path, size, pairs, what is missing."""
    done = sparserm("report", "--run", run, "--output", tmp_path / "page.html", "--json", "--quiet")
    summary = json.loads(done.stdout)
    assert summary["path"] == str(tmp_path / "page.html")
    assert summary["bytes"] == (tmp_path / "page.html").stat().st_size
    assert summary["pairs"] == 40
    assert list(summary["missing"]) == ["evaluation"]
    assert done.stderr == ""


@pytest.mark.slow
def test_compare_prints_tables_and_the_report_shows_them(run, tmp_path):
    """Markdown for people, one JSON object for scripts, a section of the page."""
    shutil.copytree(run, tmp_path / "run")
    words = ("compare", "--run", tmp_path / "run", "--name", "tiny", "--top-k", "4,2", "--folds", 2)
    done = sparserm(*words, "--sweep", "directions", "--other", f"again={run}")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[0] == "### tiny: 40 pairs of 40 prompts"
    assert lines[2].startswith("- tiny: layer 1, ")
    assert lines[3] == lines[2].replace("tiny", "again")
    assert lines[5].startswith("| directions a side | SparseRM | random latents' rows | components of ")
    assert [line[:5] for line in lines[7:9]] == ["| 2 |", "| 4 |"]
    assert lines[9] == ""
    assert lines[10].startswith("verdict: SparseRM has ")
    assert "of 40 held-out pairs of 40 prompts right" in lines[10]
    assert f"written to {tmp_path / 'run' / 'comparison.json'} in " in done.stderr
    comparison = json.loads(sparserm(*words, "--sweep", "noise", "--json", "--quiet").stdout)
    assert list(comparison["runs"]["tiny"]["sweeps"]["noise"]) == ["0", "0.1", "0.2", "0.3", "0.4"]
    page = tmp_path / "page.html"
    sparserm("report", "--run", tmp_path / "run", "--output", page)
    assert "40 pairs of 40 prompts, 2 folds" in page.read_text(encoding="utf-8")


def test_tokens_are_marked_by_thirds_of_the_strongest():
    """0.6 is +++, 0.31 of it rounds to half: two; below a sixth nothing; control characters are pictures."""
    text = look_reports.marked_tokens(TOKENS)
    assert text == (
        "tokens: {+} to {+++} raises the score, {-} to {---} lowers it\nGood{+++} and{--}\nb␛[0mad{--}{+}é{+}"
    )


def test_tokens_are_coloured_on_a_terminal(monkeypatch):
    """Blue and orange grounds with a colour of text each; an escape in the text stays a picture."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.delenv("NO_COLOR", raising=False)
    text = look_reports.coloured_tokens(TOKENS)
    assert text.startswith(
        "tokens: blue raises the score, orange lowers it\n\x1b[37;48;2;35;104;184mGood\x1b[0m and"
    )
    assert "\x1b[30;48;2;236;154;99mb␛[0mad\x1b[0m" in text
    assert "\x1b[30;48;2;188;214;242mé\x1b[0m" in text


class Terminal(io.StringIO):
    """A stdout that says it is a terminal."""

    def isatty(self):
        """Yes."""
        return True


@pytest.mark.parametrize(
    ("kind", "more", "coloured"),
    [
        ("xterm-256color", {}, True),
        ("xterm-256color", {"NO_COLOR": "1"}, False),
        ("xterm", {}, False),
        ("dumb", {}, False),
    ],
)
def test_colours_need_a_terminal_that_shows_their_strength(monkeypatch, kind, more, coloured):
    """Sixteen colours would not tell weak from strong, and NO_COLOR is heard."""
    for name in ("NO_COLOR", "COLORTERM", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", kind)
    for name, value in more.items():
        monkeypatch.setenv(name, value)
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    look_reports.explain(Output(), explanation(), 10)
    assert ("blue raises" in screen.getvalue()) is coloured
    assert ("{+++}" in screen.getvalue()) is not coloured


def test_unknown_and_approximate_parts_are_named(capsys):
    """Random directions, unknown rates, the last token's pooling, the rest and the integral's error."""
    look_reports.explain(Output(), explanation("integrated gradients", error=0.125), 2)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "score +1.7500 of response 2 of row 3 (integrated gradients, approximate)"
    cells = [line.split() for line in lines[2:7]]
    assert cells[0] == ["preferred", "14", "77", "50.0", "%", "25.0", "%", "+1.50", "+2.0000"]
    assert cells[1] == ["dispreferred", "(last)", "14", "random", "-0.50", "-1.0000"]
    assert cells[2] == ["1", "more", "+0.2500"]
    assert cells[3] == ["mean", "training", "response", "+0.5000"]
    assert cells[4] == ["missed", "by", "the", "integral", "+0.1250"]
