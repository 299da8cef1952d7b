"""Find the files that a path names: one file, a folder, a pattern, or several paths separated by commas."""

import glob
from collections.abc import Sequence
from pathlib import Path

from sparserm_cli.errors import BadInputError

_NO_ROWS = {"dataset_info.json", "dataset_infos.json", "state.json", "config.json", "metadata.json"}
"""Files of a data set that hold no rows."""


def named_files(source: str | Path) -> tuple[Path, ...] | None:
    """Return the files that a pattern or a comma-separated list names; None for one path or a data set."""
    text = str(source)
    if Path(text).exists():
        return None
    if any(mark in text for mark in "*?["):
        return tuple(Path(name) for name in sorted(_fitting(text)) if not Path(name).is_dir())
    parts = tuple(Path(part.strip()) for part in text.split(","))
    return parts if len(parts) > 1 and all(part.exists() for part in parts) else None


def _fitting(pattern: str) -> list[str]:
    """Return the paths that match a pattern, which may be absolute and may contain `**`."""
    return glob.glob(pattern, recursive=True)  # noqa: PTH207  # Path.glob takes no absolute pattern


def files_of(folder: Path, suffixes: Sequence[str], split: str) -> tuple[Path, ...]:
    """Return the data files of a folder and its subfolders by name, for one split if there are several.

    Args:
        folder: the folder to search.
        suffixes: endings of the names of data files.
        split: the split, which file names begin with where the folder holds several.

    Raises:
        BadInputError: there are no data files, or they are of several kinds.

    """
    paths = [
        path
        for path in sorted(folder.rglob("*"))
        if path.name.lower().endswith(tuple(suffixes))
        and path.name not in _NO_ROWS
        and not path.is_dir()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    of_split = [path for path in paths if _is_of(path, folder, split)]
    others = [path for path in paths if any(_is_of(path, folder, name) for name in _SPLITS)]
    paths = of_split or ([] if others and len(others) == len(paths) else paths)
    if not paths:
        hint = f"the split asked for is {split}: see --split"
        raise BadInputError(str(folder), f"files ending in {', '.join(suffixes)}", "none", hint)
    kinds = sorted({kind_of_file(path, suffixes) for path in paths})
    if len(kinds) > 1:
        expected, hint = "files of one kind", f"give a pattern, such as '{folder}/*{kinds[0]}'"
        raise BadInputError(str(folder), expected, ", ".join(kinds), hint)
    return tuple(paths)


def kind_of_file(path: Path, suffixes: Sequence[str]) -> str:
    """Return the longest ending of a file's name that is among `suffixes`, or an empty string."""
    name = path.name.lower()
    return next((suffix for suffix in sorted(suffixes, key=len, reverse=True) if name.endswith(suffix)), "")


_SPLITS = ("train", "test", "validation", "valid", "dev", "val")


def _is_of(path: Path, folder: Path, split: str) -> bool:
    """Whether a file, or its folder, is named for a split, such as `train-00000-of-00002.parquet`."""
    parts = path.relative_to(folder).parts
    return any(part == split or part.startswith((f"{split}-", f"{split}.", f"{split}_")) for part in parts)
