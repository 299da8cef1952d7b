"""The formats of SAE files: one module per format, and the table of all formats."""

import re
from pathlib import Path

from sparserm_cli.errors import IncompatibleError, UsageError
from sparserm_cli.files import refuse_pipes
from sparserm_cli.models.sae.formats import (
    dictionary_learning,
    gemma_scope,
    goodfire,
    llama_scope,
    qwen_scope,
    saelens,
    sparsify,
)
from sparserm_cli.models.sae.formats.base import SAEFormat
from sparserm_cli.models.sae.metadata import LocalSAE

FORMATS: dict[str, SAEFormat] = {
    kind.name: kind
    for kind in (
        saelens.FORMAT,
        sparsify.FORMAT,
        gemma_scope.FIRST,
        gemma_scope.SECOND,
        llama_scope.FORMAT,
        llama_scope.R1_FORMAT,
        dictionary_learning.FORMAT,
        qwen_scope.FORMAT,
        goodfire.FORMAT,
    )
}
"""Mapping from name to format; of several that fit, one known by file name is taken, else the first."""


def find_local(path: Path, name: str | None = None) -> LocalSAE:
    """Recognise the format of a folder, or of one of its files.

    Raises:
        UsageError: there is no such path, or no format has these files.
        IncompatibleError: a pipe or a device is among them.

    """
    shown = name or str(path)
    folder = path.parent if path.is_file() else path
    present = sorted(path.iterdir()) if path.is_dir() else [path]
    refuse_pipes(present, IncompatibleError)
    for kind in FORMATS.values():
        pattern = kind.file_pattern or "(?!)"
        matching = [file for file in present if re.fullmatch(pattern, file.name) and file.is_file()]
        if len(matching) == 1:
            return LocalSAE(shown, kind.name, folder, matching[0])
    for kind in FORMATS.values():
        if kind.files and all((folder / file).is_file() for file in kind.files):
            return LocalSAE(shown, kind.name, folder, folder / kind.files[-1])
    expected = "a folder in the format of " + ", ".join(FORMATS)
    found = "a folder without those files" if path.is_dir() else "no such folder"
    raise UsageError(f"--sae {shown}", expected, found, "give an SAE's folder, or RELEASE/SAE_ID of SAELens")
