"""Combine rows with one answer each into one example per prompt; rows of one prompt must be adjacent.

Memory: the rows of one prompt, and one number per prompt read so far.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import combinations

import xxhash

from sparserm_cli.data.example import CHOSEN, REJECTED, UNLABELLED, Example, RowError, plain_prompt


def prompt_hash(example: Example) -> int:
    """Return the 64-bit xxh3 hash of the prompt of an example."""
    return xxhash.xxh3_64_intdigest(repr((plain_prompt(example.prompt), example.tools)).encode())


def grouped(examples: Iterable[Example], refuse: Callable[[Example, RowError], None]) -> Iterator[Example]:
    """Yield the rows of each prompt as one example with the pairs that their ratings make.

    Args:
        examples: rows of one response each.
        refuse: called with a row whose prompt was read earlier, before rows of other prompts.

    """
    current: list[Example] = []
    before: set[int] = set()
    for example in examples:
        if current and (example.prompt, example.tools) == (current[0].prompt, current[0].tools):
            current.append(example)
            continue
        key = prompt_hash(example)
        if key in before:
            refuse(
                example,
                RowError("rows of one prompt next to each other", "its prompt again: sort them by it"),
            )
            continue
        if current:
            yield merged(current)
        before.add(key)
        current = [example]
    if current:
        yield merged(current)


def merged(rows: Sequence[Example]) -> Example:
    """Return rows of one prompt as one example, in their order; equal ratings make no pair."""
    ratings = [row.rating for row in rows]
    scores = [0.0 if rating is None or None in ratings else rating for rating in ratings]
    pairs = pairs_of(scores)
    turns = tuple(row.turns[0] if row.turns else "" for row in rows)
    return rows[0]._replace(
        responses=tuple(row.responses[0] for row in rows),
        sides=sides_of(scores),
        better=pairs,
        margins=tuple(scores[good] - scores[bad] for good, bad in pairs),
        turns=turns if any(turns) else (),
        undecided="" if pairs else "one answer" if len(rows) == 1 else "tie",
        rating=None,
        rows=len(rows),
    )


def pairs_of(scores: Sequence[float]) -> tuple[tuple[int, int], ...]:
    """Return every pair of a larger and a smaller score by index, those with the largest score first."""
    order = sorted(range(len(scores)), key=lambda place: -scores[place])
    return tuple((good, bad) for good, bad in combinations(order, 2) if scores[good] > scores[bad])


def sides_of(scores: Sequence[float]) -> tuple[int, ...]:
    """Return +1 (chosen) for the largest scores, -1 (rejected) for the smallest and 0 for those between."""
    best, worst = max(scores, default=0.0), min(scores, default=0.0)
    if best == worst:
        return (UNLABELLED,) * len(scores)
    return tuple(CHOSEN * (value == best) + REJECTED * (value == worst) for value in scores)
