"""Suggest the `--column` options that would read a row of unknown shape."""

from collections.abc import Mapping
from typing import Any

from sparserm_cli.data.shapes.prompts import PROMPT_NAMES
from sparserm_cli.data.shapes.values import is_messages

_HINTS = {
    "prompt": (*PROMPT_NAMES, "ask", "post", "title"),
    "rejected": ("reject", "bad", "worse", "lose", "negative", "dispreferred", "incorrect", "wrong"),
    "chosen": ("chosen", "good", "better", "win", "positive", "preferred", "accept", "correct", "best"),
    "response": ("response", "answer", "completion", "reply", "output", "generat", "text"),
}
"""Words that occur in column names, by the content they usually announce; earlier words take precedence."""


def advice(row: Mapping[str, Any], mapped: Mapping[str, str]) -> str:
    """Return a sentence that names the columns to give, guessed from their names and what they hold.

    Args:
        row: a row of the file.
        mapped: the columns that the user has already mapped.

    """
    wordy = [key for key, value in row.items() if isinstance(value, str) or is_messages(value)]
    if not wordy:
        return "use --column prompt=NAME --column chosen=NAME --column rejected=NAME"
    guesses: dict[str, str] = dict(mapped)
    for ours, words in _HINTS.items():
        free = [key for key in wordy if key not in guesses.values()]
        named = next((key for word in words for key in free if word in key.lower()), None)
        if ours not in guesses and named is not None:
            guesses[ours] = named
    free = [key for key in wordy if key not in guesses.values()]
    if "prompt" not in guesses and free:
        guesses["prompt"] = free.pop(0)
    wanted = (
        ("prompt", "chosen", "rejected")
        if {"chosen", "rejected"} <= guesses.keys()
        else ("prompt", "response")
    )
    if len(wordy) >= 3 and "response" not in guesses:
        wanted = ("prompt", "chosen", "rejected")
    for ours in wanted:
        if ours not in guesses and free:
            guesses[ours] = free.pop(0)
    line = " ".join(f"--column {ours}={guesses.get(ours, 'NAME')}" for ours in wanted)
    return f"use {line}"
