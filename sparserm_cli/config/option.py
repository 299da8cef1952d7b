"""Declaration of a config's field as an option: its help text, its range and its form on the command line.

A field says all of it once: `top_k: Annotated[int, Option("Number of directions.", check=AT_LEAST_1)] = 64`.
Type, default and choices (`Literal`) are those of the field. The command line is made from this, and every
config checks its values by it, so both refuse the same values in the same words.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import cache
from numbers import Integral, Real
from pathlib import Path, PurePath
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from sparserm_cli.errors import UsageError
from sparserm_cli.locations import parse_location

DATA = "Data"
MODEL = "Model and SAE"
METHOD = "Method"
TRAINING = "Training"
ADDRESS = "Address"
LIMITS = "Limits"
CLUSTER = "Cluster"
PRICE = "Price of a dry run"
CARD = "Model card"
OUTPUT = "Run directory and output"
PANELS = (DATA, MODEL, METHOD, TRAINING, ADDRESS, LIMITS, CLUSTER, PRICE, CARD, OUTPUT)
"""Panels of the help text, in the order in which they are shown."""


class Check(NamedTuple):
    """A range of values.

    Fields:
        expected: the range in words, as an error says it.
        holds: whether a value lies in the range.
    """

    expected: str
    holds: Callable[[Any], bool]


AT_LEAST_1 = Check("a whole number of at least 1", lambda value: value >= 1)
NOT_NEGATIVE = Check("a number of at least 0", lambda value: value >= 0)
ABOVE_0 = Check("a number above 0", lambda value: 0 < value < math.inf)
RATIO = Check("a number of at least 1", lambda value: value >= 1)
SHARE = Check("a share from 0 up to, but not, 1", lambda value: 0 <= value < 1)
INNER_SHARE = Check("a share between 0 and 1", lambda value: 0 < value < 1)
FINITE = Check("a finite number", math.isfinite)
PORT = Check("a number from 0 to 65535", lambda value: 0 <= value < 65536)


@dataclass(frozen=True)
class Option:
    """Properties of a field besides its type and default."""

    help: str
    """Help text: one whole sentence with the unit."""
    panel: str = METHOD
    """Panel of the help text in which the option stands."""
    check: Check | None = None
    """Range of the value, or of each value of several."""
    metavar: str | None = None
    """Placeholder of the value; None takes the choices or the type."""
    shown: str | None = None
    """Default in words, where the field's own default says too little."""
    flag: str | None = None
    """Name on the command line; None makes it from the field's name."""
    aliases: tuple[str, ...] = ()
    """Further names on the command line, such as --license."""
    argument: bool = False
    """The value stands without a name, in the order of the fields."""
    required: bool = False
    """The command line has no default for it."""
    path: Literal["always", "perhaps"] | None = None
    """In a settings file the value names a place beside that file: always, or if something is there."""
    complete: Callable[[], Sequence[str]] | None = None
    """Values that the shell offers, where they are no choices of a `Literal`."""


class Field(NamedTuple):
    """A field of a config as it was declared.

    Fields:
        name: name of the field.
        kind: type without None and without metadata; for several values the type of one.
        several: whether the value is a tuple.
        optional: whether it may be None.
        choices: allowed values, where they are few.
        default: the default; MISSING where a factory makes it.
        option: what was declared about it; None for a field that is no option.
    """

    name: str
    kind: Any
    several: bool
    optional: bool
    choices: tuple[Any, ...]
    default: Any
    option: Option | None

    @property
    def flag(self) -> str:
        """Name on the command line."""
        own = self.option.flag if self.option else None
        return own or "--" + self.name.replace("_", "-")


def declared_fields(config: Any) -> Mapping[str, Field]:
    """Return the fields of a config class by name, in their order."""
    return _declared_fields(config)


@cache
def _declared_fields(config: Any) -> Mapping[str, Field]:
    hints = get_type_hints(config, include_extras=True)
    return {item.name: _field(item.name, hints[item.name], item.default) for item in fields(config)}


def _field(name: str, hint: Any, default: Any) -> Field:
    """Return the parts of a type hint."""
    option: Option | None = None
    if get_origin(hint) is Annotated:
        hint, *details = get_args(hint)
        option = next((item for item in details if isinstance(item, Option)), None)
    parts = get_args(hint) if get_origin(hint) in {Union, UnionType} else (hint,)
    optional = NoneType in parts
    kind = next(part for part in parts if part is not NoneType)
    several = get_origin(kind) is tuple
    if several:
        kind = get_args(kind)[0]
    choices = get_args(kind) if get_origin(kind) is Literal else ()
    return Field(name, str if choices else kind, several, optional, choices, default, option)


def check_fields(config: Any) -> None:
    """Check all values of a config; a list becomes a tuple, and text that names a place becomes a path.

    Raises:
        UsageError: a value is of another type, none of the choices, or out of range.

    """
    for field in declared_fields(type(config)).values():
        value = getattr(config, field.name)
        if value is None and field.optional:
            continue
        settled = _settled(field, value)
        if settled is not value:
            object.__setattr__(config, field.name, settled)
        for item in settled if field.several else (settled,):
            _check(field, item)


def _settled(field: Field, value: Any) -> Any:
    """Return a value in the type that the field promises, where it can be told."""
    if field.several:
        return tuple(value) if isinstance(value, list) else value
    if field.kind in {Path, PurePath} and isinstance(value, str):
        return parse_location(value) if field.kind is PurePath else Path(value)
    return value


_TYPES: dict[Any, tuple[str, tuple[type, ...]]] = {
    int: ("a whole number", (Integral,)),
    float: ("a number", (Real,)),
    bool: ("True or False", (bool,)),
    str: ("text", (str,)),
    Path: ("a path", (Path,)),
    PurePath: ("a path", (PurePath,)),
}


def _check(field: Field, value: Any) -> None:
    """Check one value.

    Raises:
        UsageError: it is of another type, none of the choices, or out of range.

    """
    hint = "correct the option"
    if field.choices:
        if value not in field.choices:
            listed = ", ".join(str(choice) for choice in field.choices)
            raise UsageError(field.flag, f"one of {listed}", repr(value), hint)
        return
    expected, types = _TYPES.get(field.kind, ("", ()))
    wrong = types and (
        not isinstance(value, types) or (isinstance(value, bool) and field.kind in {int, float})
    )
    if wrong:
        raise UsageError(field.flag, expected, f"{value!r} ({type(value).__name__})", hint)
    if field.option and field.option.check and not field.option.check.holds(value):
        raise UsageError(field.flag, field.option.check.expected, str(value), hint)


def default_of(field: Field, config: Any) -> Any:
    """Return the default value of a field, made where a factory makes it."""
    if field.default is not MISSING:
        return field.default
    factory: Any = next(item.default_factory for item in fields(config) if item.name == field.name)
    return factory()
