"""Shared code of the benchmarks that capture a file of pairs: options, command, and figures as JSON."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any


def parser(doc: str | None, *, limit: int, unit_tokens: int) -> argparse.ArgumentParser:
    """Return a parser of the options of the capture and of the path of the figures.

    Args:
        doc: docstring of the benchmark.
        limit: default number of captured rows.
        unit_tokens: default number of response tokens per unit.

    """
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--data", type=Path, required=True, help="preference pairs")
    made.add_argument("--model", default="smollm2-135m")
    made.add_argument("--layer", type=int, default=14)
    made.add_argument("--limit", type=int, default=limit, help="rows captured")
    made.add_argument("--unit-tokens", type=int, default=unit_tokens, help="response tokens in a unit")
    made.add_argument("--output", type=Path, help="write the figures there")
    return made


def extract(options: argparse.Namespace, run: Path) -> list[str]:
    """Return the command that captures as the options say."""
    settings = ["--model", options.model, "--layer", str(options.layer), "--limit", str(options.limit)]
    units = ["--unit-tokens", str(options.unit_tokens), "--run", str(run)]
    rest = ["--on-bad-row", "reject", "--json", "--quiet"]
    return [sys.executable, "-m", "sparserm_cli", "extract", str(options.data), *settings, *units, *rest]


def write(figures: dict[str, Any], output: Path | None) -> None:
    """Write the figures, if a path is given."""
    if output:
        output.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
