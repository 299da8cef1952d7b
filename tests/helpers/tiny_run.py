"""A whole run on pairs that try to break a page, to explain and to report on."""

from pathlib import Path
from typing import Any

from helpers import fitted_run as fitted

NASTY = '<script>alert("x")</script> & <b>bold</b>'


def pair(n: int) -> dict[str, str]:
    """Give a pair; every fifth has its labels swapped, so that a fit cannot be right everywhere."""
    texts = f"Yes, {n} is good{'.' * (n % 4)}", f"no{' never' * (n % 3)} {NASTY}"
    chosen, rejected = texts[::-1] if n % 5 == 3 else texts
    return {"prompt": f"Question {n}? {NASTY if n == 7 else ''}", "chosen": chosen, "rejected": rejected}


ROWS = [pair(n) for n in range(40)]
"""Forty pairs; some of their text would run in a page that does not escape it."""


def quiet(*_: object) -> None:
    """Neither progress nor notes."""


def tiny_run(folder: Path, model: Path, *, layers: tuple[int, ...] = (1,), **head: Any) -> Path:
    """Make a run directory with every artifact of the chain, in several units.

    Args:
        folder: where to; the run is `folder/run`, its data `folder/pairs.jsonl`.
        model: a tiny model's folder.
        layers: captured, with an SAE each.
        head: options of the fit.

    """
    return fitted.run_stages(
        folder,
        model,
        ROWS,
        layers=layers,
        top_k=4,
        val_fraction=0.25,
        extract_options={"unit_tokens": 700},
        fit_options={"head": "linear", "loss": "bt", **head},
    )
