"""scores.jsonl: one JSON object a row of the input, in its order.

| field | | |
|---|---|---|
| row | MUST | line or record number in the input, from 1 |
| id | MUST where the row has one | the row's own id |
| score | MUST for one response | its reward |
| scores | MUST for several | their rewards, in the row's order; of a preference row the chosen ones first |
"""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

SCORES = "scores.jsonl"


def scores_path(run: Path) -> Path:
    """Return where the scores of a run directory lie."""
    return run / SCORES


def score_line(row: int, name: str | None, scores: Float32[np.ndarray, " responses"]) -> dict[str, Any]:
    """Return the line of one row.

    Args:
        row: its number in the input, from 1.
        name: its own id, if it has one.
        scores: one a response.

    """
    line: dict[str, Any] = {"row": row}
    if name is not None:
        line["id"] = name
    if len(scores) == 1:
        return {**line, "score": float(scores[0])}
    return {**line, "scores": [float(score) for score in scores]}
