"""From a reader and a template to token ids that fit the model; what does not fit is refused."""

from collections.abc import Iterator
from itertools import islice
from typing import Literal

from sparserm_cli.data.chat_template import EncodedExample, PromptTemplate
from sparserm_cli.data.example import RowError
from sparserm_cli.data.reader import Reader

TooLong = Literal["error", "reject", "truncate-left"]
_BATCH_ROWS = 256


def encoded_rows(
    reader: Reader, template: PromptTemplate, *, max_length: int, too_long: TooLong = "error"
) -> Iterator[EncodedExample]:
    """Yield the rows of a reader as token ids, in file order.

    A row with a response that has no token, or that is too long, is refused through the reader, so that its
    counters stay right. Memory: 256 rows.

    Args:
        reader: where the rows come from.
        template: how they become token ids.
        max_length: most tokens a prompt and one response may have together.
        too_long: stop at a longer row, refuse it, or drop the oldest prompt tokens.

    Raises:
        BadInputError: a bad or too long row, unless told to go on; no row left.

    """
    examples = iter(reader)
    while batch := list(islice(examples, _BATCH_ROWS)):
        for encoded in template.encode(batch):
            example = encoded.example
            try:
                fitted = _fitted(encoded, template, max_length, cut=too_long == "truncate-left")
            except _TooLongError as error:
                action: Literal["error", "reject"] = "error" if too_long == "error" else "reject"
                reader.reject_row(example.row, error, offset=example.offset, action=action, hint=error.HINT)
            except RowError as error:
                reader.reject_row(example.row, error, offset=example.offset)
            else:
                yield fitted
    reader.require_rows()


class _TooLongError(RowError):
    """A row that has too many tokens."""

    HINT = "raise --max-length, or use --too-long reject or truncate-left"


def _fitted(
    encoded: EncodedExample, template: PromptTemplate, max_length: int, *, cut: bool
) -> EncodedExample:
    """Return the row with every response within `max_length`.

    Raises:
        RowError: a response has no token, or does not fit.

    """
    responses = list(encoded.responses)
    for i, response in enumerate(responses):
        if len(response.response_ids) == 0:
            raise RowError("a response with tokens", f"none in response {i + 1}")
        tokens = len(response.prompt_ids) + len(response.response_ids)
        if tokens <= max_length:
            continue
        if not cut or len(response.response_ids) >= max_length:
            part = "" if not cut else " without its prompt"
            count = len(response.response_ids) if cut else tokens
            raise _TooLongError(f"at most {max_length:,} tokens", f"{count:,} in response {i + 1}{part}")
        responses[i] = template.truncate_left(response, max_length)
    return encoded._replace(responses=tuple(responses))
