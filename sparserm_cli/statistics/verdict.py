"""One sentence that compares a scorer with its controls, and says what this number of prompts resolves."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

FEW_PROMPTS = 30
"""With fewer prompts than this an accuracy is no more than a hint."""
POWER = 2.8 / 1.96
"""A difference of this many half-widths of its 95 % interval is found in 80 % of samples (normal theory)."""


class Gap(NamedTuple):
    """Lead of a scorer over a control, as shares of pairs.

    Fields:
        name: name of the control.
        value: accuracy of the scorer less that of the control.
        low: lower end of the paired 95 % interval over prompts.
        high: upper end of it.
    """

    name: str
    value: float
    low: float
    high: float

    @property
    def standing(self) -> str:
        """Whether the scorer is ahead of, level with or behind the control, by the interval."""
        if self.low > 0:
            return "ahead of"
        return "behind" if self.high < 0 else "level with"

    @property
    def smallest(self) -> float:
        """The smallest difference that would be told apart in four samples of five; 0 without a width."""
        return POWER * (self.high - self.low) / 2

    @property
    def text(self) -> str:
        """Name, difference and interval in percentage points; where level, what would be told apart."""
        points = [f"{100 * value:+.1f}" for value in (self.value, self.low, self.high)]
        parts = [f"{points[0]} points, {points[1]} to {points[2]}", self._limit.replace(" points", "")]
        return f"{self.name} ({'; '.join(part for part in parts if part)})"

    @property
    def brief(self) -> str:
        """Name; where level, what would be told apart as well."""
        return f"{self.name} ({self._limit})" if self._limit else self.name

    @property
    def _limit(self) -> str:
        """What a level scorer says beside it: the smallest difference that would be told apart."""
        level = self.standing == "level with" and self.smallest > 0
        return f"{100 * self.smallest:.1f} points would be told apart" if level else ""


def gaps(differences: Mapping[str, Mapping[str, Any]]) -> list[Gap]:
    """Return the gaps of JSON objects with value, low and high, by the name of the control."""
    return [
        Gap(name, float(gap["value"]), float(gap["low"]), float(gap["high"]))
        for name, gap in differences.items()
    ]


def smallest_difference(against: Sequence[Gap]) -> float | None:
    """Return the smallest difference that so many prompts tell apart in four samples of five.

    It is that of the widest interval; None where no interval has a width.
    """
    return max((gap.smallest for gap in against), default=0.0) or None


def verdict(
    accuracy: Mapping[str, Any], count: str, prompts: int, against: Sequence[Gap], *, brief: bool = False
) -> str:
    """Return one sentence about a scorer.

    Args:
        accuracy: share of pairs that it has right, under `accuracy`, and the ends of its 95 % interval, under
            `low` and `high`.
        count: what was measured on, in words, such as `79 pairs`.
        prompts: number of prompts.
        against: how far it is ahead of each control.
        brief: name the controls without their differences.

    """
    value, low, high = (f"{100 * accuracy[name]:.1f}" for name in ("accuracy", "low", "high"))
    parts = [f"verdict: the reward has {value} % ({low} to {high}) of {count} of {prompts:,} prompts right"]
    for standing in ("ahead of", "level with", "behind"):
        names = [gap.brief if brief else gap.text for gap in against if gap.standing == standing]
        parts += [f"it is {standing} {', '.join(names)}"] * bool(names)
    apart = smallest_difference(against)
    if prompts < FEW_PROMPTS:
        parts.append(too_few(prompts))
    elif apart is not None:
        points = f"a difference of about {100 * apart:.0f} points"
        parts.append(f"with {prompts:,} prompts {points} can be told apart")
    return "; ".join(parts)


def too_few(prompts: int) -> str:
    """Return the warning about a number of prompts below `FEW_PROMPTS`; "" for any other."""
    if prompts >= FEW_PROMPTS:
        return ""
    return f"{prompts} prompts are too few to rely on (at least {FEW_PROMPTS} are wanted)"
