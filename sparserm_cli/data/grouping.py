"""Rows with one answer each, put together by their prompt: rows of one prompt stand next to each other.

Memory: the rows of one prompt, and a number for each prompt that has been.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import xxhash

from sparserm_cli.data.example import CHOSEN, REJECTED, UNLABELLED, Example, RowError, plain_prompt


def prompt_hash(example: Example) -> int:
    """Return the 64-bit xxh3 hash of what comes before an example's responses."""
    return xxhash.xxh3_64_intdigest(repr((plain_prompt(example.prompt), example.tools)).encode())


def grouped(examples: Iterable[Example], refuse: Callable[[Example, RowError], None]) -> Iterator[Example]:
    """Yield the rows of each prompt as one example with the pairs that their ratings make.

    Args:
        examples: rows of one response each.
        refuse: called with a row whose prompt has been before, with other prompts between.

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


def best_first(rows: Sequence[Example]) -> list[int]:
    """Return the places of rows by rating, the best first; as they are where one has none."""
    ratings = [row.rating for row in rows]
    known = [0.0 if rating is None else rating for rating in ratings]
    return sorted(range(len(rows)), key=lambda place: 0.0 if None in ratings else -known[place])


def merged(rows: Sequence[Example]) -> Example:
    """Return rows of one prompt as one example, the best rating first; equal ratings make no pair."""
    ordered = [rows[place] for place in best_first(rows)]
    ratings = [row.rating for row in ordered]
    best = [float(rating or 0.0) if None not in ratings else 0.0 for rating in ratings]
    places = range(len(best))
    pairs = tuple((good, bad) for good in places for bad in places if best[good] > best[bad])
    turns = tuple(row.turns[0] if row.turns else "" for row in ordered)
    return rows[0]._replace(
        responses=tuple(row.responses[0] for row in ordered),
        sides=sides_of(best),
        better=pairs,
        margins=tuple(best[good] - best[bad] for good, bad in pairs),
        turns=turns if any(turns) else (),
        undecided="" if pairs else "one answer" if len(rows) == 1 else "tie",
        rating=None,
        rows=len(rows),
    )


def sides_of(scores: Sequence[float]) -> tuple[int, ...]:
    """Return sides for scores that fall: chosen for the first, rejected for the last, neither between."""
    if not scores or scores[0] == scores[-1]:
        return (UNLABELLED,) * len(scores)
    return tuple(CHOSEN * (value == scores[0]) + REJECTED * (value == scores[-1]) for value in scores)
