"""Files with one JSON object per line, such as `scores.jsonl`, `ranking.jsonl`, pairs and their audit."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import PurePath
from typing import IO, Any

from sparserm_cli.locations import parse_location
from sparserm_cli.store.io.atomic import atomic_file
from sparserm_cli.store.io.storage import storage_of

STDOUT = "-"

Writer = Callable[[Mapping[str, Any]], object]
"""Writes one line."""


def line_writer(file: IO[str]) -> Writer:
    """Return a function that writes lines to an open file."""
    return lambda line: file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")


def replacement_note(output: str | PurePath, what: str) -> str | None:
    """Return a sentence that says that a file will be replaced; None if there is none, or for stdout.

    Args:
        output: the location of the file, or `STDOUT`.
        what: the plural of what the file holds, such as `scores`.

    """
    if output == STDOUT or storage_of(path := parse_location(output)).size() < 0:
        return None
    return f"{path}: earlier {what} are replaced; --output keeps them apart"


@contextmanager
def writing_lines(output: str | PurePath) -> Iterator[Writer]:
    """Yield a function that writes lines to stdout (`STDOUT`), or to a file that appears when it is whole.

    Raises:
        ResourceError: the disk is full or the folder cannot be written.

    """
    if output == STDOUT:
        yield line_writer(sys.stdout)
        return
    path = parse_location(output)
    storage_of(path.parent).make_folder()
    with atomic_file(path) as part, part.open("w", encoding="utf-8") as file:
        yield line_writer(file)
