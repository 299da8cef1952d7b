"""suggestions.jsonl: pairs to label next, one JSON object per pair, the most telling pair first.

| field | | |
|---|---|---|
| row | MUST | line or record number in the input, from 1 |
| id | MUST where the row has one | the row's own id |
| prompt | MUST | as in the row: text, or a list of messages |
| response_a, response_b | MUST | two responses of the row, in the row's order |
| winner | MUST | null; whoever labels the pair puts a, b or tie there |
| score_difference | MUST | reward of the first response less that of the second |
| nats | MUST | what the label would add to what is known after the pairs above, in nats |

With `winner` filled in, a line is a row of the data shape `two answers, winner`.
"""

from pathlib import PurePath
from typing import Any

SUGGESTIONS = "suggestions.jsonl"


def suggestions_path(run: PurePath) -> PurePath:
    """Return where the suggestions of a run directory lie."""
    return run / SUGGESTIONS


def suggestion_line(
    row: int, name: str | None, prompt: Any, responses: tuple[str, str], difference: float, nats: float
) -> dict[str, Any]:
    """Return the line of one pair.

    Args:
        row: number of its row in the input, from 1.
        name: the row's own id, if it has one.
        prompt: as the row has it.
        responses: both responses.
        difference: reward of the first less that of the second.
        nats: what the label would add.

    """
    return {
        "row": row,
        **({} if name is None else {"id": name}),
        "prompt": prompt,
        "response_a": responses[0],
        "response_b": responses[1],
        "winner": None,
        "score_difference": difference,
        "nats": nats,
    }
