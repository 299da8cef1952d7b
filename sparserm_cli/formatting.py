"""Plain text: readable numbers, and text of others without characters that control a terminal."""

import math
import re
from collections.abc import Mapping
from typing import Any


def strict(value: Any) -> Any:
    """Return `value` with NaN and infinities, which JSON does not have, as null."""
    if isinstance(value, Mapping):
        return {str(key): strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


# Control characters except tab and line feed, marks of text direction, line separators, lone surrogates.
_STEERING = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def plain(text: str) -> str:
    r"""Return text in which characters that control a terminal are escaped, such as `\u001b`.

    Names, ids and messages come from files and servers of other people. Escaped JSON still has the same
    value.
    """
    return _STEERING.sub(lambda match: f"\\u{ord(match.group()):04x}", text)


def one_line(text: str) -> str:
    """Return `plain` text in which line feeds and tabs are spaces."""
    return plain(" ".join(re.split(r"[\n\t]", text)))


def size(count: float) -> str:
    """Return a number of bytes as text, in units of powers of 1,024."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def duration(seconds: float) -> str:
    """Return a time as text, such as 8 s, 3 min 20 s or 2 h 5 min."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def rows_read(read: int, accepted: int, rejected: int) -> str:
    """Return how many rows of a file were read, accepted and rejected, as text."""
    return f"{read:,} rows read: {accepted:,} accepted, {rejected:,} rejected"


def percent(value: float, digits: int = 1) -> str:
    """Return a share as a percentage; "" for NaN."""
    return "" if math.isnan(value) else f"{100 * value:.{digits}f} %"


def first_line(error: Exception) -> str:
    """Return the first line of an error's text, or the error's name if it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
