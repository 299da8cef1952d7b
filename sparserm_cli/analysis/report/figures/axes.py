"""Axes of a figure, which map values to pixels and have ticks at round numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

TICKS = 5
"""Approximate number of ticks per axis."""
LOG_RANGE = (-4.0, 0.0)
"""Number of powers of ten that a logarithmic axis spans."""


@dataclass(frozen=True)
class Axis:
    """One axis."""

    low: float
    """Value at the beginning; its power of ten if the axis is logarithmic."""
    high: float
    """Value at the end; its power of ten if the axis is logarithmic."""
    begin: float
    """Pixel at the beginning."""
    end: float
    """Pixel at the end."""
    categories: Sequence[str] = ()
    """Names in their order, for an axis of names."""
    logarithmic: bool = False
    """Whether the axis is logarithmic."""
    tick_format: str = ""
    """Format of the tick labels, such as `.0%` or `~%`."""

    def at(self, value: float | str) -> float:
        """Return the pixel of a value; a value beyond an end is drawn at that end."""
        number = float(self.categories.index(str(value))) if self.categories else float(value)
        if self.logarithmic:
            number = float(np.log10(max(number, 1e-12)))
        share = (number - self.low) / ((self.high - self.low) or 1.0)
        return self.begin + (self.end - self.begin) * float(np.clip(share, 0.0, 1.0))

    def holds(self, value: float | str) -> bool:
        """Return whether a value lies on the axis."""
        if self.categories:
            return str(value) in self.categories
        number = float(np.log10(max(float(value), 1e-12))) if self.logarithmic else float(value)
        slack = 1e-6 * (self.high - self.low)
        return self.low - slack <= number <= self.high + slack

    def ticks(self) -> list[tuple[float, str]]:
        """Return pixel and label of each tick."""
        if self.categories:
            return [(self.at(name), name) for name in self.categories]
        if self.logarithmic:
            powers = range(round(self.low), round(self.high) + 1)
            return [(self.at(10.0**power), number_as("~%", 10.0**power)) for power in powers]
        step = _step((self.high - self.low) / TICKS)
        first, last = int(np.ceil(self.low / step - 1e-9)), int(np.floor(self.high / step + 1e-9))
        values = [step * number for number in range(first, last + 1)]
        return [(self.at(value), number_as(self.tick_format, value)) for value in values]


def axis_of(
    settings: Mapping[str, Any], values: Sequence[Any], begin: float, end: float, *, logarithmic: bool = False
) -> Axis:
    """Return the axis that holds all values of a figure.

    Args:
        settings: the axis in the figure's layout: `type`, `range`, `tickformat`.
        values: all values along it.
        begin: pixel of the lowest value.
        end: pixel of the highest value.
        logarithmic: whether the axis is logarithmic, whatever the settings say.

    """
    shown = str(settings.get("tickformat", ""))
    if settings.get("type") == "category":
        names = list(dict.fromkeys(str(value) for value in values))
        return Axis(-0.5, len(names) - 0.5, begin, end, tuple(names))
    if logarithmic:
        return Axis(*LOG_RANGE, begin, end, logarithmic=True, tick_format=shown)
    if "range" in settings:
        low, high = map(float, settings["range"])
        return Axis(low, high, begin, end, tick_format=shown)
    numbers = np.array([float(value) for value in values] or [0.0, 1.0])
    low, high = float(numbers.min()), float(numbers.max())
    pad = 0.04 * (high - low) or 0.5
    return Axis(low - (0.0 if low == 0 else pad), high + pad, begin, end, tick_format=shown)


def number_as(shown: str, value: float) -> str:
    """Write a number in a format of Python, or in `~%`, which drops zeros at the end."""
    if shown == "~%":
        return f"{100 * value:.6g} %"
    if shown.endswith("%"):
        return f"{100 * value:{shown[:-1]}f} %"
    return f"{value:{shown}}" if shown else f"{value:.6g}".replace("-", "−")


def _step(least: float) -> float:
    """Return the smallest of 1, 2, 2.5 and 5 times a power of ten that is not below a number."""
    power = 10.0 ** np.floor(np.log10(max(least, 1e-12)))
    return float(next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= least - 1e-15))
