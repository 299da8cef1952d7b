"""The text of each token, so that the texts of all tokens together are the text: for explain and report.

Axes: t (tokens), p (tokens of what comes before them).
"""

from typing import Any

import numpy as np
from jaxtyping import UInt32

REPLACEMENT = "\ufffd"
"""The character to which a tokenizer decodes the bytes of an unfinished character."""

LEAD = 4
"""Tokens before the first one that its text may depend on."""

_PICTURES = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"}
_PICTURES |= dict.fromkeys(range(0x80, 0xA0), 0x2426) | {0x7F: 0x2421}
# Marks that turn the reading direction could make a page or terminal show something other than the text.
_PICTURES |= dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A)], 0x2426)


def token_texts(
    tokenizer: Any, ids: UInt32[np.ndarray, " t"], before: UInt32[np.ndarray, " p"] | None = None
) -> list[str]:
    """Return the text of each token; joined they are the decoded text.

    Where a character is spread over several tokens, the last of them has it and the others have "".

    Args:
        tokenizer: a transformers tokenizer.
        ids: token ids, special ones included.
        before: token ids that come before them, since some tokenizers drop a space at the start of a text.

    """
    lead = [] if before is None else before[-LEAD:].tolist()
    numbers = lead + ids.tolist()
    texts: list[str] = []
    # A token's text may depend on the one before it (a space or none), so two decoded pieces that begin with
    # that one are compared: with and without the new token.
    begin, finished = 0, len(lead)
    for stop in range(len(lead) + 1, len(numbers) + 1):
        known = _decoded(tokenizer, numbers[begin:finished])
        now = _decoded(tokenizer, numbers[begin:stop])
        if now.endswith(REPLACEMENT) and stop < len(numbers):
            texts.append("")
            continue
        texts.append(now[len(known) :])
        begin, finished = finished, stop
    return texts


def printable(text: str) -> str:
    """Return text with control characters as pictures, so that no terminal or page obeys them."""
    return text.translate(_PICTURES)


def decoded(tokenizer: Any, ids: UInt32[np.ndarray, " t"]) -> str:
    """Return the text of token ids, special ones included, with control characters as pictures."""
    return printable(_decoded(tokenizer, ids.tolist()))


def _decoded(tokenizer: Any, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
