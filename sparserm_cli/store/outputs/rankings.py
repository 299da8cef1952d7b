"""ranking.jsonl: best of n, one JSON object per accepted row of the input, in the same order.

| field | | |
|---|---|---|
| row | MUST | line or record number in the input, from 1 |
| id | MUST where the row has one | the row's own id |
| prompt | MUST | as in the row: text, or a list of messages |
| response | MUST | the best response |
| score | MUST | its reward |
| order | MUST | numbers of all responses, from 0, from best to worst; equal ones in the row's order |
| scores | MUST | rewards of all responses, in the row's order |

The file can be read as prompts with responses, by `sparserm score` and by programs that fine-tune on the
best.
"""

from pathlib import PurePath
from typing import Any

import numpy as np
from jaxtyping import Float32

RANKING = "ranking.jsonl"


def ranking_path(run: PurePath) -> PurePath:
    """Return the path of the ranking of a run directory."""
    return run / RANKING


def ranking_line(
    row: int, name: str | None, prompt: Any, responses: tuple[str, ...], scores: Float32[np.ndarray, " n"]
) -> dict[str, Any]:
    """Return the line of one row.

    Args:
        row: number of the row in the input, from 1.
        name: the row's own id, if it has one.
        prompt: prompt of the row.
        responses: responses of the row, at least one.
        scores: one score per response.

    """
    order = np.argsort(-scores, kind="stable")
    best = int(order[0])
    return {
        "row": row,
        **({} if name is None else {"id": name}),
        "prompt": prompt,
        "response": responses[best],
        "score": float(scores[best]),
        "order": order.tolist(),
        "scores": scores.tolist(),
    }
