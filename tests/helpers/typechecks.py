"""The type checker that tests run the package under: beartype, with one gap closed."""

from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeDecorHintPep673Exception

CHECK = beartype(conf=BeartypeConf(is_pep484_tower=True))
"""`float` takes any real number, as PEP 484 and mypy have it."""


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check a function's arguments and result, except where `Self` keeps beartype from it outside a class."""
    try:
        return CHECK(function)
    except BeartypeDecorHintPep673Exception:
        return function
