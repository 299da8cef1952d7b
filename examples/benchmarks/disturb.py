"""Rewrite preference pairs to fool a reward model that looks at the surface; prompts stay the same.

    python disturb.py corrupted pairs.jsonl corrupted.jsonl

`corrupted` puts a typing mistake (two letters swapped, one left out, one doubled) into about one word in five
of every response. `restyled` gives every rejected response, and no chosen one, a better style: a courteous
opening, a list of its sentences where there are several, a friendly end. `restyled-both` gives it to every
response. None of them changes the content.
"""

import argparse
import json
import random
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sparserm_cli.data.example import CHOSEN
from sparserm_cli.data.reader import Reader
from sparserm_cli.errors import SparseRMError

SHARE = 0.2
"""Share of the words of at least four letters that get a mistake."""


def corrupted(text: str, _chosen: bool) -> str:
    """Put typing mistakes into a response; the same text always gets the same mistakes."""
    drawn = random.Random(text)

    def mistake(match: re.Match[str]) -> str:
        word = match[0]
        if drawn.random() >= SHARE:
            return word
        at = drawn.randrange(len(word) - 1)
        first, second = word[at], word[at + 1]
        return word[:at] + drawn.choice((second + first, second, first + first + second)) + word[at + 2 :]

    return re.sub(r"[^\W\d_]{4,}", mistake, text)


def restyled(text: str, chosen: bool) -> str:
    """Give a rejected response a better style."""
    if chosen:
        return text
    sentences = [sentence for sentence in re.split(r"(?<=[.!?])\s+", text.strip()) if sentence]
    body = sentences[0] if len(sentences) == 1 else "\n".join(f"- {sentence}" for sentence in sentences)
    return f"Thank you for your question! Here is a clear answer:\n\n{body}\n\nI hope this helps."


WAYS: dict[str, Callable[[str, bool], str]] = {
    "corrupted": corrupted,
    "restyled": restyled,
    "restyled-both": lambda text, _chosen: restyled(text, False),
}


def main() -> int:
    """Write the rewritten pairs; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("source", help="preference pairs of any shape")
    parser.add_argument("target", type=Path, help="JSON lines")
    options = parser.parse_args()
    change, part = WAYS[options.way], options.target.with_suffix(".part")
    try:
        with part.open("w", encoding="utf-8") as file:
            for example in Reader(options.source, purpose="pairs", on_bad_row="reject"):
                prompt = example.prompt
                row: dict[str, Any] = {
                    "prompt": prompt if isinstance(prompt, str) else [turn.plain() for turn in prompt],
                    "chosen": [],
                    "rejected": [],
                }
                for text, side in zip(example.responses, example.sides, strict=True):
                    row["chosen" if side == CHOSEN else "rejected"] += [change(text, side == CHOSEN)]
                file.write(json.dumps(row) + "\n")
    except SparseRMError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    part.replace(options.target)  # so an incomplete file is never taken for a whole one
    return 0


if __name__ == "__main__":
    sys.exit(main())
