"""Describe in one sentence how the rows of a file are understood."""

from sparserm_cli.data.shapes.shape import Row
from sparserm_cli.data.shapes.table import Recognised


def understood(recognised: Recognised, row: Row) -> str:
    """Return the shape, the columns in use, the column of the label, and the ignored columns.

    Args:
        recognised: the shape with its columns.
        row: the first row of the file, after it has been read.

    """
    used = ", ".join(
        ours if ours == path else f"{ours} from {path}" for ours, path in row.found.items() if ours != "id"
    )
    parts = [f"shape {recognised.name}: {used}"]
    if recognised.others:
        decides = recognised.shape.decides
        others = ", ".join(recognised.others)
        parts.append(f"{recognised.names[decides]} says what is better ({others}: --column {decides}=NAME)")
    rest = ", ".join(name for name in row.ignored() if name != "id")
    return "; ".join([*parts, f"ignored: {rest}" if rest else "nothing is ignored"])
