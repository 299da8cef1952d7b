"""The reference of the command line, made from the code: run this file to write the guide anew."""

import re
from pathlib import Path

from typer.testing import CliRunner

from sparserm_cli.cli.builder import COMMANDS
from sparserm_cli.cli.main import app

GUIDE = Path(__file__).parents[2] / "examples" / "guides" / "cli.md"
WIDTH = "100"
HEAD = """# Command line reference

This page is what `sparserm --help` and `sparserm COMMAND --help` print, made by
`python tests/helpers/cli_reference.py`. A test holds it to the code.
"""


def help_of(*words: str) -> str:
    """Return the help of the program or of a command, without the blanks at the ends of lines."""
    settings = {"COLUMNS": WIDTH, "TERMINAL_WIDTH": WIDTH, "NO_COLOR": "1"}
    done = CliRunner().invoke(app, [*words, "--help"], env=settings, prog_name="sparserm")
    return "\n".join(line.rstrip() for line in done.output.strip().splitlines())


def reference() -> str:
    """Return the whole page."""
    parts = [HEAD, f"```text\n{help_of()}\n```\n"]
    parts += [f"## {name}\n\n```text\n{help_of(name)}\n```\n" for name in sorted(COMMANDS)]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(parts))


if __name__ == "__main__":
    GUIDE.write_text(reference(), encoding="utf-8")
