"""scores.jsonl: one JSON object per row of the input, in the same order.

| field | | |
|---|---|---|
| row | MUST | line or record number in the input, from 1 |
| id | MUST where the row has one | the row's own id |
| score | MUST for one response | reward of the response |
| scores | MUST for several | their rewards, in the row's order; in a preference row, chosen ones first |
| ood | MUST | how far the response is from the training responses, 99 % of which are below 1 |
| token_ids, token_rewards | MAY | the response's tokens and the part of the score that each adds |
| token_method | MUST with these | `exact`, or `integrated gradients`, which are approximate |
| parts | MAY | what the mean training response scores (`intercept`) and what each group of directions adds |
| part_method | MUST with these | as token_method; approximate parts have a `remainder` that they miss |

Of several responses `ood`, `token_ids`, `token_rewards` and `parts` are lists as well. A score, its token
rewards and its parts are null where the reward model abstains.
"""

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

SCORES = "scores.jsonl"


def scores_path(run: PurePath) -> PurePath:
    """Return the path of the scores of a run directory."""
    return run / SCORES


def score_line(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the line of a row from `score_log.scored_row`; lists of one response become single values."""
    if len(row["scores"]) != 1:
        return dict(row)
    alone = {name: value[0] if isinstance(value, list) else value for name, value in row.items()}
    return {"score" if name == "scores" else name: value for name, value in alone.items()}
