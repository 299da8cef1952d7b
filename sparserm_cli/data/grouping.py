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


def merged(rows: Sequence[Example]) -> Example:
    """Return rows of one prompt as one example, the best rating first; equal ratings make no pair."""
    first, turns = rows[0], [row.turns[0] if row.turns else "" for row in rows]
    ratings = [row.rating for row in rows]
    if None in ratings:
        order = list(range(len(rows)))
        known: list[float] = [0.0] * len(rows)
    else:
        known = [float(rating or 0) for rating in ratings]
        order = sorted(range(len(rows)), key=lambda place: -known[place])
    best = [known[place] for place in order]
    places = range(len(order))
    pairs = tuple((good, bad) for good in places for bad in places if best[good] > best[bad])
    sides = tuple(
        UNLABELLED if best[0] == best[-1] else CHOSEN * (value == best[0]) + REJECTED * (value == best[-1])
        for value in best
    )
    undecided = "" if pairs else "one answer" if len(rows) == 1 else "tie"
    return first._replace(
        responses=tuple(rows[place].responses[0] for place in order),
        sides=sides,
        better=pairs,
        margins=tuple(best[good] - best[bad] for good, bad in pairs),
        turns=tuple(turns[place] for place in order) if any(turns) else (),
        undecided=undecided,
        rows=len(rows),
    )
