"""The factors of an edit: which direction of a reward model counts how much, as the options name them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches

import numpy as np
from jaxtyping import Bool, Float64

from sparserm_cli.config import EditConfig
from sparserm_cli.errors import UsageError
from sparserm_cli.store.artifacts.head_arrays import HEAD_TENSORS, HeadArrays, head_kind

_NEAR = 3  # names offered for one that is not known


def factors_of(
    config: EditConfig, names: Sequence[str], described: Mapping[str, str] | None = None
) -> Mapping[str, float]:
    """Return the factor of each direction that an edit changes; 0 is that of a dropped one.

    Args:
        config: the options.
        names: name of the direction of each projection.
        described: direction to what it stands for, as `sparserm describe` has found.

    Raises:
        UsageError: the reward model has no such direction, one is named twice, a factor is no finite number,
            or no direction is left.

    """
    factors: dict[str, float] = {}
    for name in _listed(config.drop):
        _add(factors, "--drop", _known("--drop", name, names), 0.0)
    for text in config.drop_named:
        for name in _described(text, names, described or {}):
            factors[name] = 0.0
    for part in _listed(config.scale):
        name, _, text = part.partition("=")
        _add(factors, "--scale", _known("--scale", name, names), _factor(part, text))
    kept = {_known("--keep-only", name, names) for name in _listed(config.keep_only)}
    if kept:
        for name in kept & {name for name, factor in factors.items() if factor == 0}:
            raise UsageError("--keep-only", "a direction that is not dropped", name, "name it once")
        factors |= {name: 0.0 for name in names if name not in kept}
    left = {name for name in names if factors.get(name, 1.0)}
    if not left:
        found = f"none of {len(set(names)):,}"
        raise UsageError("edit", "a direction that still counts", found, "drop fewer directions")
    return factors


def columns_of(factors: Mapping[str, float], names: Sequence[str]) -> Float64[np.ndarray, " p"]:
    """Return the factor of each projection; directions that are not named keep theirs, 1."""
    return np.array([factors.get(name, 1.0) for name in names])


def with_factors(head: HeadArrays, factors: Float64[np.ndarray, " p"]) -> HeadArrays:
    """Return a head that multiplies each standardised projection with a factor before it scores.

    0 stands for the mean training response, so that a dropped direction counts as if every response had its
    mean. A linear head's score changes by exactly the parts of the directions, and a hidden layer sees the
    changed inputs. Means, deviations and directions stay, and with them the distance from the training data.
    """
    first = HEAD_TENSORS[head_kind(head.weights)][0]
    rows = head.weights[first]
    scaled = rows * factors.reshape(-1, *[1] * (rows.ndim - 1))
    return replace(head, weights={**head.weights, first: scaled.astype(np.float32)})


def counts(head: HeadArrays) -> Bool[np.ndarray, " p"]:
    """Return which projections have any weight in a head; dropped ones have none."""
    rows = head.weights[HEAD_TENSORS[head_kind(head.weights)][0]]
    return np.any(rows.reshape(len(rows), -1), axis=1)


def _listed(options: Sequence[str]) -> list[str]:
    """Return the parts of an option that may be repeated and may hold several parts with commas."""
    return [part.strip() for option in options for part in option.split(",")]


def _described(text: str, names: Sequence[str], described: Mapping[str, str]) -> list[str]:
    """Return the directions whose description contains a text, in any case.

    Raises:
        UsageError: there are none.

    """
    found = [name for name in dict.fromkeys(names) if text.lower() in described.get(name, "").lower()]
    if not found:
        hint = "`sparserm describe` shows the names" if described else "run `sparserm describe` first"
        where = f"none of {len(described):,} names has it"
        raise UsageError("--drop-named", f"a direction whose name contains {text!r}", where, hint)
    return found


def _known(option: str, name: str, names: Sequence[str]) -> str:
    """Return a direction's name if the reward model has the direction.

    Raises:
        UsageError: it has not; the error offers the names that look most like it.

    """
    if name in names:
        return name
    near = get_close_matches(name, dict.fromkeys(names), n=_NEAR, cutoff=0.0)
    hint = f"near ones are {', '.join(near)}"
    raise UsageError(option, "a direction of this reward model", repr(name), hint)


def _factor(part: str, text: str) -> float:
    """Read the factor of `--scale`.

    Raises:
        UsageError: it is no finite number.

    """
    try:
        factor = float(text)
    except ValueError:
        factor = math.nan
    if not math.isfinite(factor):
        expected = "LAYER:LATENT=FACTOR with a finite factor, like 14:3450=0.5"
        raise UsageError("--scale", expected, repr(part), "correct the option")
    return factor


def _add(factors: dict[str, float], option: str, name: str, factor: float) -> None:
    """Note a direction's factor.

    Raises:
        UsageError: it has one already.

    """
    if name in factors:
        raise UsageError(option, "each direction once", f"{name} twice", "leave one of them out")
    factors[name] = factor
