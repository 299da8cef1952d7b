"""scores.jsonl: one JSON object a row of the input, in its order.

| field | | |
|---|---|---|
| row | MUST | line or record number in the input, from 1 |
| id | MUST where the row has one | the row's own id |
| score | MUST for one response | its reward |
| scores | MUST for several | their rewards, in the row's order; of a preference row the chosen ones first |
| ood | MUST | how far the response is from the training responses, 99 % of which are below 1 |
| token_ids, token_rewards | MAY | the response's tokens and what each adds to its score |
| token_method | MUST with these | `exact`, or `integrated gradients`, which are approximate |

Of several responses `ood`, `token_ids` and `token_rewards` are lists as well. A score and its token rewards
are null where the reward model abstains.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt32

SCORES = "scores.jsonl"


def scores_path(run: Path) -> Path:
    """Return where the scores of a run directory lie."""
    return run / SCORES


def score_line(
    row: int,
    name: str | None,
    scores: Float32[np.ndarray, " responses"],
    ood: Float32[np.ndarray, " responses"],
) -> dict[str, Any]:
    """Return the line of one row.

    Args:
        row: its number in the input, from 1.
        name: its own id, if it has one.
        scores: one a response; NaN becomes null.
        ood: one a response.

    """
    line: dict[str, Any] = {"row": row} if name is None else {"row": row, "id": name}
    given = [None if np.isnan(score) else float(score) for score in scores]
    distances = [float(one) for one in ood]
    if len(given) == 1:
        return {**line, "score": given[0], "ood": distances[0]}
    return {**line, "scores": given, "ood": distances}


def token_fields(
    ids: Sequence[UInt32[np.ndarray, " _"]],
    rewards: Sequence[Float32[np.ndarray, " _"] | None],
    method: str,
) -> dict[str, Any]:
    """Return what the line of a row says of the tokens of its responses.

    Args:
        ids: token ids of each response.
        rewards: a reward a token; None where the reward model abstains.
        method: how they were found.

    """
    tokens = [one.tolist() for one in ids]
    parts = [None if one is None else one.tolist() for one in rewards]
    alone = len(tokens) == 1
    return {
        "token_ids": tokens[0] if alone else tokens,
        "token_rewards": parts[0] if alone else parts,
        "token_method": method,
    }
