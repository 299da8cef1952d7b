"""The shipped preference pairs: sizes, balance and the split by country, from the files alone."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from sparserm_cli.data.reader import Reader
from sparserm_cli.data.splits import group_key

FOLDER = Path(__file__).parents[2] / "examples" / "data"
FILES = ["geography-train.jsonl", "geography-test.jsonl"]


def rows_of(name: str) -> list[dict[str, str]]:
    """Return the rows of a shipped file."""
    return [json.loads(line) for line in (FOLDER / name).read_text(encoding="utf-8").splitlines()]


def test_sizes_are_what_the_readme_says():
    """At least 600 pairs over at least 200 questions, under a megabyte; the README's table is right."""
    sizes = {name: (len(rows := rows_of(name)), len({row["prompt"] for row in rows})) for name in FILES}
    assert sum(rows for rows, _ in sizes.values()) >= 600
    assert sum(prompts for _, prompts in sizes.values()) >= 200
    assert sum((FOLDER / name).stat().st_size for name in FILES) < 2**20
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    for name, (rows, prompts) in sizes.items():
        countries = len({row["country"] for row in rows_of(name)})
        assert f"| `{name}` | {rows} pairs | {prompts} | {countries}" in readme
    assert readme.split("```json\n")[1].split("\n")[0] in (FOLDER / FILES[0]).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", FILES)
def test_every_answer_is_chosen_as_often_as_rejected(name: str):
    """So nothing that sees only the answer does better than chance: not its words, not its length."""
    rows = rows_of(name)
    assert Counter(row["chosen"] for row in rows) == Counter(row["rejected"] for row in rows)
    longer = sum(len(row["chosen"]) > len(row["rejected"]) for row in rows)
    shorter = sum(len(row["chosen"]) < len(row["rejected"]) for row in rows)
    assert longer == shorter > 0


@pytest.mark.parametrize("name", FILES)
def test_every_pair_has_its_mirror_image(name: str):
    """Turned round, each pair is one of another question: a fixed order of answers is right half the time."""
    pairs = Counter((row["chosen"], row["rejected"]) for row in rows_of(name))
    assert pairs == Counter((rejected, chosen) for chosen, rejected in pairs.elements())


def test_split_is_by_country():
    """No country, no question and no id is in both files; a city stands with its country."""
    train, test = (rows_of(name) for name in FILES)
    for column in ("country", "prompt", "id"):
        assert not {row[column] for row in train} & {row[column] for row in test}
    for rows in (train, test):
        assert len({row["id"] for row in rows}) == len(rows)
        assert all(row["id"].startswith(f"{row['subset']}-{row['country']}-") for row in rows)


@pytest.mark.parametrize("name", FILES)
def test_no_answer_is_both_right_and_wrong_for_one_question(name: str):
    """Whatever words it comes in, a fact that is chosen is nowhere rejected for the same question."""
    facts: dict[str, dict[str, set[str]]] = {}
    for row in rows_of(name):
        sides = facts.setdefault(row["prompt"], {"chosen": set(), "rejected": set()})
        for side, seen in sides.items():
            seen.add(
                row[side].removesuffix(", I believe.").removesuffix(" there.").removesuffix(".").split()[-1]
            )
    assert all(len(sides["chosen"]) == 1 for sides in facts.values())
    capitals = {
        "Paris": "France",
        "Berlin": "Germany",
        "Tokyo": "Japan",
        "Ottawa": "Canada",
        "Cairo": "Egypt",
    }
    answers = {row["prompt"]: row["chosen"] for row in rows_of(name) if row["subset"] == "capital"}
    for capital, country in capitals.items():
        assert all(capital in answer for prompt, answer in answers.items() if country in prompt)


@pytest.mark.parametrize("name", FILES)
def test_the_reader_takes_them_without_a_complaint(name: str):
    """Shape, subset and id are found; nothing is refused, doubled or the same on both sides."""
    reader = Reader(FOLDER / name, purpose="pairs")
    examples = list(reader)
    assert (reader.shape, reader.rejected, reader.duplicates, reader.identical_pairs) == (
        "preference",
        0,
        0,
        0,
    )
    assert {example.subset for example in examples} == {
        "capital", "capital-of", "continent", "currency", "language", "city-country", "city-continent",
    }  # fmt: skip
    assert len({group_key(str(example.prompt)) for example in examples}) == len({e.prompt for e in examples})


def test_responses_to_score_are_of_test_questions():
    """About twenty, each question with a true and a false answer, none of them trained on."""
    examples = list(Reader(FOLDER / "responses.jsonl", purpose="responses"))
    assert len(examples) == 20
    questions = Counter(example.prompt for example in examples)
    assert set(questions.values()) == {2}
    assert set(questions) <= {row["prompt"] for row in rows_of("geography-test.jsonl")}


def test_check_balance_prints_what_the_readme_shows():
    """The figures in the README are the command's own."""
    script = FOLDER / "check_balance.py"
    done = subprocess.run([sys.executable, "-W", "error", script], capture_output=True, text=True, check=True)
    assert done.stdout in (FOLDER / "README.md").read_text(encoding="utf-8")
    assert "on test: 50.0 %" in done.stdout
