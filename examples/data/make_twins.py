"""Write twins: the same response in two styles, from which `fit --invariant-to` learns what style moves.

    python make_twins.py responses.jsonl twins.jsonl --count 400 --styles courteous,listed

Each line has a prompt, a restyled response as `chosen` and the plain response as `rejected`; these words are
only the names of the columns, for no preference is meant. Every response is restyled in one of the styles,
which are used in turn. Phrases are drawn per response with a fixed seed.
"""

import argparse
import itertools
import json
import random
import re
import sys
from collections.abc import Callable
from pathlib import Path

from sparserm_cli.data.reader import Reader
from sparserm_cli.errors import SparseRMError

OPENINGS = (
    "Great question!",
    "Sure, happy to help.",
    "Of course!",
    "Certainly. Let me explain.",
    "Good point, and thanks for asking.",
    "Absolutely!",
)
CLOSINGS = (
    "Let me know if you need anything else!",
    "Feel free to ask more.",
    "Have a wonderful day!",
    "Does that make sense?",
    "Wishing you all the best.",
)
HEDGES = ("I think", "As far as I know,", "It may be that", "Perhaps", "Possibly,", "It seems that")
FILLERS = (
    "This is a topic that many people ask about.",
    "There are several things to keep in mind here.",
    "It is worth taking a moment to consider this.",
    "Opinions on the details can differ.",
    "To put it in other words, this is how it is.",
)


def sentences(text: str) -> list[str]:
    """Split a text into its sentences; a text without any is one."""
    return [part for part in re.split(r"(?<=[.!?])\s+", text.strip()) if part] or [text]


def courteous(text: str, drawn: random.Random) -> str:
    """Add a friendly opening and a friendly end."""
    return f"{drawn.choice(OPENINGS)} {text} {drawn.choice(CLOSINGS)}"


def listed(text: str, drawn: random.Random) -> str:
    """Give the sentences as a list with numbers or stars, under a heading half of the time."""
    number = drawn.random() < 0.5
    lines = [f"{place}. {part}" if number else f"* {part}" for place, part in enumerate(sentences(text), 1)]
    heading = ["**Answer**", ""] if drawn.random() < 0.5 else []
    return "\n".join([*heading, *lines])


def polished(text: str, drawn: random.Random) -> str:
    """Put a friendly opening, the sentences as a list, and a friendly end into paragraphs of their own."""
    return f"{drawn.choice(OPENINGS)}\n\n{listed(text, drawn)}\n\n{drawn.choice(CLOSINGS)}"


def padded(text: str, drawn: random.Random) -> str:
    """Add sentences that say nothing."""
    before, after = drawn.sample(FILLERS, 2)
    return f"{before} {text} {after}"


def hedged(text: str, drawn: random.Random) -> str:
    """Begin every second sentence with words of doubt."""
    parts = sentences(text)
    for place in range(0, len(parts), 2):
        part = parts[place]
        parts[place] = f"{drawn.choice(HEDGES)} {part[:1].lower()}{part[1:]}"
    return " ".join(parts)


def mistyped(text: str, drawn: random.Random) -> str:
    """Leave one letter out of about one word in six."""

    def mistake(match: re.Match[str]) -> str:
        word = match[0]
        if drawn.random() >= 1 / 6:
            return word
        at = drawn.randrange(1, len(word))
        return word[:at] + word[at + 1 :]

    return re.sub(r"[^\W\d_]{5,}", mistake, text)


STYLES: dict[str, Callable[[str, random.Random], str]] = {
    "courteous": courteous,
    "listed": listed,
    "polished": polished,
    "padded": padded,
    "hedged": hedged,
    "mistyped": mistyped,
}


def main() -> int:
    """Write the twins; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", help="prompts with responses or preference pairs, of any shape")
    parser.add_argument("target", type=Path, help="JSON lines")
    parser.add_argument("--count", type=int, default=400, help="most twins to write (400)")
    parser.add_argument("--styles", default=",".join(STYLES), help="names with commas between them (all)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the phrases (0)")
    options = parser.parse_args()
    styles = [STYLES[name] for name in options.styles.split(",")]
    drawn, turns, written = random.Random(options.seed), itertools.cycle(styles), 0
    try:
        with options.target.open("w", encoding="utf-8") as file:
            for example in Reader(options.source, purpose="pairs", on_bad_row="reject"):
                prompt, text = example.prompt, example.responses[0]
                styled = next(turns)(text, drawn)
                if styled == text or written == options.count:
                    continue
                row = {
                    "prompt": prompt if isinstance(prompt, str) else [turn.plain() for turn in prompt],
                    "chosen": styled,
                    "rejected": text,
                }
                file.write(json.dumps(row) + "\n")
                written += 1
    except SparseRMError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{options.target}: {written} twins")
    return 0


if __name__ == "__main__":
    sys.exit(main())
