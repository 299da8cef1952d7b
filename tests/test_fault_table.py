"""tests/FAULTS.md says which test covers which row of the fault table; here it is held to that."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
ROW = re.compile(r"^\| (\d+) \| [^|]+ \| (?P<where>[^|]+) \|$", re.MULTILINE)
FILE = re.compile(r"(?:\w+/)*test_\w+\.py")


def claims() -> list[tuple[int, Path]]:
    """Return row and test file of every claim."""
    table = (TESTS / "FAULTS.md").read_text(encoding="utf-8")
    return [
        (int(row[1]), TESTS / file[0]) for row in ROW.finditer(table) for file in FILE.finditer(row["where"])
    ]


@pytest.mark.parametrize("claim", claims(), ids=lambda claim: f"{claim[0]}-{claim[1].name}")
def test_every_claim_of_the_table_is_a_test(claim: tuple[int, Path]):
    """The file has a test whose name has the row's number."""
    row, path = claim
    assert re.search(rf"def test_\w*row_{row:02d}_\w+\(", path.read_text(encoding="utf-8"))


def test_every_row_in_a_name_is_claimed():
    """The table names every test that says it covers a row."""
    claimed = set(claims())
    for path in TESTS.rglob("test_*.py"):
        for name in re.findall(r"def (test_\w*row_\d\d+_\w*)\(", path.read_text(encoding="utf-8")):
            for row in re.findall(r"row_(\d\d+)_", name):
                assert (int(row), path) in claimed, name


def test_every_row_is_tested_or_explained():
    """No row is left out; those from 64 on have numbers by room, with gaps between."""
    text = (TESTS / "FAULTS.md").read_text(encoding="utf-8")
    rows = {int(row) for row in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)}
    assert rows >= set(range(1, 64))
