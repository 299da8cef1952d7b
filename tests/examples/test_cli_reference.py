"""The reference of the command line says what the commands say."""

import pytest
from helpers.cli_reference import GUIDE, help_of, reference

from sparserm_cli.cli.builder import COMMANDS


def test_the_reference_is_up_to_date(monkeypatch: pytest.MonkeyPatch):
    """`python tests/helpers/cli_reference.py` would change nothing."""
    monkeypatch.delenv("SPARSERM_RUN", raising=False)
    assert GUIDE.read_text(encoding="utf-8") == reference()


def test_every_command_stands_in_it():
    """Each has a heading, and its help has an example."""
    text = GUIDE.read_text(encoding="utf-8")
    for name in COMMANDS:
        assert f"\n## {name}\n" in text
        assert "Example: sparserm" in help_of(name)
