"""Plain text for numbers: sizes, durations, percentages, counts of rows."""

import math
from collections.abc import Mapping
from typing import Any


def strict(value: Any) -> Any:
    """Return `value` with what JSON has no word for (NaN, infinities) as null."""
    if isinstance(value, Mapping):
        return {str(key): strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def size(count: float) -> str:
    """Write a number of bytes as people read it, in powers of 1,024."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def duration(seconds: float) -> str:
    """Write a time as people read it: 8 s, 3 min 20 s, 2 h 5 min."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def rows_read(read: int, accepted: int, rejected: int) -> str:
    """Write what became of the rows of a file."""
    return f"{read:,} rows read: {accepted:,} accepted, {rejected:,} rejected"


def percent(value: float, digits: int = 1) -> str:
    """Write a share as a percentage; "" for NaN."""
    return "" if math.isnan(value) else f"{100 * value:.{digits}f} %"
