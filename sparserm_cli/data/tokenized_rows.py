"""Convert the rows of a reader to token ids that fit the model; rows that do not fit are refused."""

from collections.abc import Iterator
from itertools import islice
from typing import Any, Literal

from sparserm_cli.data.chat_template import PromptTemplate
from sparserm_cli.data.example import Example, RowError
from sparserm_cli.data.reader import Reader
from sparserm_cli.data.rendering.row_tokenizer import RenderedExample, TokenizedExample
from sparserm_cli.data.rendering.templated_text import ConversationText
from sparserm_cli.errors import IncompatibleError

TooLong = Literal["error", "reject", "truncate-left"]
_BATCH_ROWS = 256


def tokenized_rows(
    reader: Reader, template: PromptTemplate, *, max_length: int, too_long: TooLong = "error"
) -> Iterator[TokenizedExample]:
    """Yield the rows of a reader as token ids, in file order.

    A row that the template refuses, with a response that has no token, or that is too long, is refused
    through the reader, so that its counters stay right. Text that has been through the template already is
    cut and not rendered again. Memory: 256 rows.

    Args:
        reader: the reader of the rows.
        template: the template that renders and tokenises the rows.
        max_length: most tokens that a prompt and one response may have together.
        too_long: stop at a longer row, refuse it, or drop the oldest prompt tokens.

    Raises:
        BadInputError: a row is bad or too long and is not to be rejected, or no row is left.

    """
    rendered = _rendered_rows(reader, template)
    while batch := list(islice(rendered, _BATCH_ROWS)):
        for tokenized in template.rows.tokenize(batch):
            example = tokenized.example
            refused: dict[str, Any] = {"offset": example.offset, "rows": example.rows}
            try:
                fitted = _fitted(tokenized, template, max_length, cut=too_long == "truncate-left")
            except _TooLongError as error:
                action: Literal["error", "reject"] = "error" if too_long == "error" else "reject"
                reader.reject_row(example.row, error, action=action, hint=error.HINT, **refused)
            except RowError as error:
                reader.reject_row(example.row, error, **refused)
            else:
                yield fitted
    reader.require_rows()


def _rendered_rows(reader: Reader, template: PromptTemplate) -> Iterator[RenderedExample]:
    """Yield the rows of a reader as text; a row that the template cannot render is refused."""
    marks = ConversationText(template) if template.text is not None else None
    for example in reader:
        try:
            cut = None if marks is None else _cut(example, marks, template)
            if cut is not None:
                reader.count_templated()
            row = template.rendered(cut or example)
        except IncompatibleError as error:
            fault = RowError(error.expected, error.found)
            hint = f"{error.hint}, or --on-bad-row reject to leave such rows out"
            reader.reject_row(example.row, fault, offset=example.offset, rows=example.rows, hint=hint)
        except RowError as error:
            reader.reject_row(example.row, error, offset=example.offset, rows=example.rows)
        else:
            yield row


def _cut(example: Example, marks: ConversationText, template: PromptTemplate) -> Example | None:
    """Return a row of already templated texts, split where the responses begin.

    Return None for a row of plain words or messages, which must still be rendered.

    Raises:
        RowError: the responses do not begin at one place.

    """
    prompt, header = example.prompt, marks.header.strip()
    if not isinstance(prompt, str) or not header or not template.is_marked(header):
        return None
    if not all(header in prompt + response for response in example.responses):
        return None
    cuts = [marks.cut(prompt + response) for response in example.responses]
    if any(cut.prompt != cuts[0].prompt for cut in cuts):
        raise RowError("responses after one templated prompt", "several prompts")
    return example._replace(prompt=cuts[0].prompt, responses=tuple(cut.response for cut in cuts))


class _TooLongError(RowError):
    """The fault of a row that has too many tokens."""

    HINT = "raise --max-length, or use --too-long reject or truncate-left"


def _fitted(
    tokenized: TokenizedExample, template: PromptTemplate, max_length: int, *, cut: bool
) -> TokenizedExample:
    """Return the row with every response within `max_length`.

    Raises:
        RowError: a response has no token or does not fit.

    """
    responses = list(tokenized.responses)
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
        responses[i] = template.rows.truncate_left(response, max_length)
    return tokenized._replace(responses=tuple(responses))
