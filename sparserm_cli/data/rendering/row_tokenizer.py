"""Tokenise rendered examples with an exact boundary between prompt and response.

Prompt and response are tokenised as one text, because `len(tokenize(prompt))` would be wrong wherever a token
covers characters of both. Such a token belongs to the response and is counted. The end-of-turn token is not
part of the response.

Axis legend: p = prompt tokens, r = response tokens, q = prompt tokens with exactly one BOS.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt32
from tokenizers import Encoding, Tokenizer, processors

from sparserm_cli.data.example import Example
from sparserm_cli.errors import IncompatibleError


class RenderedExample(NamedTuple):
    """One example as the text that the model sees."""

    example: Example
    prompt: str
    """Everything before the responses."""
    responses: tuple[str, ...]
    """The text of each response, without the end-of-turn token."""


class TokenizedResponse(NamedTuple):
    """Token ids of one response and of the prompt before it."""

    prompt_ids: UInt32[np.ndarray, " p"]
    response_ids: UInt32[np.ndarray, " r"]
    straddled: bool
    """Whether the first response token also covers the end of the prompt."""
    characters: int
    """Length of the response in characters."""
    truncated: bool
    """Whether prompt tokens were dropped to fit the maximum length."""


class TokenizedExample(NamedTuple):
    """One example with its responses as token ids, in the example's order."""

    example: Example
    prompt_text: str
    """The prompt as the model sees it; its hash groups examples."""
    responses: tuple[TokenizedResponse, ...]


class RowTokenizer:
    """Tokenises the prompt and the responses of rendered examples.

    Args:
        tokenizer: a transformers fast tokenizer; it is not changed.
        model: the model, as error messages name it.

    Raises:
        IncompatibleError: the tokenizer is not a fast one.

    """

    def __init__(self, tokenizer: Any, model: str) -> None:
        self._backend = _backend_copy(tokenizer, model)
        self._bos_id = tokenizer.bos_token_id
        self.adds_bos = self._backend.encode("a").ids[:1] == [self._bos_id]
        """Whether every text begins with the BOS token, even where the text itself does not contain it."""
        # No special tokens and no trimmed offsets, because the offsets must cover the text without gaps.
        self._backend.post_processor = processors.ByteLevel(trim_offsets=False)

    def tokenize(self, rows: Sequence[RenderedExample]) -> list[TokenizedExample]:
        """Tokenise rendered examples with one call of the tokenizer.

        A response whose characters all vanish in tokenising has no `response_ids`; `tokenized_rows`
        refuses it. Control tokens that a text spells out are read as control tokens, as transformers does.
        """
        texts = [row.prompt + response for row in rows for response in row.responses]
        encodings = iter(self._backend.encode_batch(texts, add_special_tokens=False))
        return [
            TokenizedExample(
                row.example,
                row.prompt,
                tuple(self._split(next(encodings), row.prompt, text) for text in row.responses),
            )
            for row in rows
        ]

    def _split(self, encoding: Encoding, prompt: str, response: str) -> TokenizedResponse:
        """Split one tokenised text at the end of its prompt and ensure that it has exactly one BOS token."""
        ids = np.array(encoding.ids, dtype=np.uint32)
        cut, straddled = _boundary(encoding, len(prompt))
        return TokenizedResponse(
            self._with_bos(ids[:cut]), ids[cut:], straddled, len(response), truncated=False
        )

    def _with_bos(self, ids: UInt32[np.ndarray, " p"]) -> UInt32[np.ndarray, " q"]:
        """Return prompt ids that begin with exactly one BOS, if the model uses one."""
        bos = self._bos_id
        if bos is None:
            return ids
        doubled = 0
        while doubled + 1 < len(ids) and ids[doubled] == bos == ids[doubled + 1]:
            doubled += 1
        if self.adds_bos and (len(ids) == 0 or ids[0] != bos):
            return np.concatenate([np.array([bos], dtype=np.uint32), ids])
        return ids[doubled:]

    def truncate_left(self, response: TokenizedResponse, max_length: int) -> TokenizedResponse:
        """Drop the oldest prompt tokens, but not a leading BOS, until prompt and response fit `max_length`.

        Returns the response unchanged if it fits; one token of prompt (or the BOS) is always kept.

        Raises:
            ValueError: the response alone does not fit.

        """
        prompt, room = response.prompt_ids, max_length - len(response.response_ids)
        if len(prompt) <= room:
            return response
        if room < 1:
            raise ValueError(
                f"a response of {len(response.response_ids)} tokens and a prompt in {max_length}"
            )
        head = int(prompt[0] == self._bos_id)
        kept = np.concatenate([prompt[:head], prompt[len(prompt) - (room - head) :]])
        return response._replace(prompt_ids=kept, truncated=True)


def tokenizer_digest(tokenizer: Any) -> str:
    """Return the sha256 of all that determines token ids: vocabulary, merges, normaliser, special tokens."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    # Padding and truncation are settings of the last call, not of the tokenizer.
    state.pop("padding", None)
    state.pop("truncation", None)
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    text = json.dumps([state, special], sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _backend_copy(tokenizer: Any, model: str) -> Tokenizer:
    """Return a copy of the fast tokenizer that neither pads nor truncates."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        expected, found = "a fast tokenizer (tokenizer.json)", type(tokenizer).__name__
        raise IncompatibleError(model, expected, found, "convert it with transformers")
    copy = Tokenizer.from_str(backend.to_str())
    copy.no_padding()
    copy.no_truncation()
    return copy


def _boundary(encoding: Encoding, characters: int) -> tuple[int, bool]:
    """Return the first token that covers a character of the response, and whether it also covers one before.

    The response begins after `characters` characters; without such a token the number of tokens is returned.
    """
    token = encoding.char_to_token(characters)
    if token is None:  # the response's first character vanishes in tokenising
        ends = (end for _, end in encoding.offsets)
        token = next((i for i, end in enumerate(ends) if end > characters), None)
    if token is None:
        return len(encoding.ids), False
    span = encoding.token_to_chars(token)
    return token, span is not None and span[0] < characters
