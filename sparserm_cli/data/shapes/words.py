"""How the rows of a file are understood, in one sentence."""

from sparserm_cli.data.shapes.shape import Row
from sparserm_cli.data.shapes.table import Recognised


def understood(found: Recognised, row: Row) -> str:
    """Say the shape, the columns that are used and as what, the choice of a label, and what is ignored.

    Args:
        found: the shape with its columns.
        row: its first row, after it was read.

    """
    used = ", ".join(
        ours if ours == path else f"{ours} from {path}" for ours, path in row.found.items() if ours != "id"
    )
    parts = [f"shape {found.name}: {used}"]
    if found.others:
        decides = found.shape.decides
        others = ", ".join(found.others)
        parts.append(f"{found.names[decides]} says what is better ({others}: --column {decides}=NAME)")
    rest = ", ".join(name for name in row.ignored() if name != "id")
    return "; ".join([*parts, f"ignored: {rest}" if rest else "nothing is ignored"])
