"""Errors in one line, and one table of exit codes for code, README and users."""

import copy
import re
from pathlib import Path

import pytest

from sparserm_cli import errors

README = Path(__file__).parents[1] / "README.md"


def test_readme_has_the_table_of_exit_codes():
    """README and code say the same of every exit code."""
    text = README.read_text(encoding="utf-8").split("## Exit codes")[1].split("##")[0]
    codes = {int(code): meaning for code, meaning in re.findall(r"^\| (\d+) \| (.+) \|$", text, re.MULTILINE)}
    assert codes == errors.EXIT_CODES


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.UsageError, 2),
        (errors.BadInputError, 3),
        (errors.IncompatibleError, 4),
        (errors.CorruptStoreError, 5),
        (errors.ResourceError, 6),
        (errors.PartialError, 7),
        (errors.TemporaryError, 75),
    ],
)
def test_an_error_says_where_expected_found_and_next(kind, code):
    """Four parts in one line, and an exit code of the table."""
    problem = kind("file:3", "an object", "a list", "correct the row")
    assert str(problem) == "file:3: expected an object, found a list; correct the row"
    assert problem.exit_code == code
    assert code in errors.EXIT_CODES


@pytest.mark.parametrize(("number", "code"), [(2, 130), (15, 143)])
def test_a_stop_has_the_signals_exit_code(number, code):
    """128 plus the signal's number."""
    stop = errors.StoppedError(number, "3 of 4 units are safe")
    assert (stop.exit_code, str(stop)) == (
        code,
        "stopped: 3 of 4 units are safe; run the same command again to continue",
    )


def test_errors_reach_another_process_whole():
    """They are made again of their four parts, as a copy is, which other exceptions would lose."""
    problem = errors.ResourceError("the disk", "4 bytes free", "3", "make room")
    again = copy.copy(problem)
    assert type(again) is errors.ResourceError
    assert vars(again) == vars(problem)
    assert str(again) == "the disk: expected 4 bytes free, found 3; make room"
