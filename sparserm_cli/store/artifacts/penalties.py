"""What a fit records about the penalties of its heads, and how people read it.

A head with one hidden layer per view has a penalty per view. Reward models of earlier releases recorded the
strength alone, and theirs are not shown.
"""

from collections.abc import Mapping, Sequence
from typing import Any

RECORDED = ("whitening", "l2")
"""Geometry and strength of a penalty."""


def penalties_of(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the penalties among the facts of a fit, one for each view; empty where none is recorded."""
    views = facts.get("views", [facts])
    return [{name: view[name] for name in RECORDED} for view in views if "whitening" in view]


def penalty_text(penalties: Sequence[Mapping[str, Any]]) -> str:
    """Return geometry and strength of each penalty in words; "" without penalties."""
    return "; ".join(
        f"whitening {penalty['whitening']:g}, strength {penalty['l2']:.2g}" for penalty in penalties
    )
