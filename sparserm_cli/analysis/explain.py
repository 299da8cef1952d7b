"""`explain` divides the score of one response among directions and tokens.

Reads: `reward/`, its language model, one response; `directions/` for the rates, if it still exists.
Writes: nothing. Memory: the model's lower blocks and the residual stream of one prompt's responses.
"""

from dataclasses import replace

from sparserm_cli.config import ExplainConfig, Note
from sparserm_cli.data.example import UNLABELLED, Example
from sparserm_cli.data.reader import Reader
from sparserm_cli.data.rendering.row_tokenizer import TokenizedExample
from sparserm_cli.data.tokenized_rows import tokenized_rows
from sparserm_cli.errors import BadInputError
from sparserm_cli.models.explanation import Explanation
from sparserm_cli.models.reward_model import RewardModel
from sparserm_cli.stages.score.responses import load_reward, responses_reader
from sparserm_cli.store.artifacts.descriptions import why_no_names


def explain(config: ExplainConfig, *, note: Note) -> Explanation:
    """Divide the score of one response among directions and tokens.

    Args:
        config: the options.
        note: called with messages for the user.

    Raises:
        BadInputError: the file has no such row or response, or the row cannot be used.
        IncompatibleError: the reward model was fitted on another model, tokenizer or template.
        CorruptStoreError: the reward model is damaged.
        ResourceError: the device is not available, or its memory is too small.

    """
    # 1. Check the file before the model is loaded, so that a typing mistake costs no waiting.
    kept = replace(config, on_bad_row="reject")
    reader = None if config.prompt is not None else responses_reader(kept, purpose="responses")
    model = load_reward(config)
    if reason := why_no_names(model.path.parent, model.config.lineage.parents.get("directions")):
        note(reason)
    note(f"explaining with {model.path} in {model.lm.dtype} on {model.lm.device}")
    # 2. Read the response, and divide its score.
    row = _typed_row(model, config) if reader is None else _file_row(model, reader, config.row)
    row = _one_response(row, config.response)
    explanation = model.explained(row, config.response, config.part_groups)
    if explanation.method != "exact":
        note(f"integrated gradients are approximate: here they miss {explanation.error:+.1e} of the score")
    return explanation


def _typed_row(model: RewardModel, config: ExplainConfig) -> TokenizedExample:
    """Return the prompt and response of the command line as a row.

    Raises:
        BadInputError: the response has no token, or prompt and response together have too many.

    """
    prompt, text = config.prompt or "", config.response_text or ""
    (row,) = model.template.tokenize([Example(1, None, prompt, (text,), (UNLABELLED,), None, {})])
    tokens = len(row.responses[0].prompt_ids) + len(row.responses[0].response_ids)
    if not len(row.responses[0].response_ids):
        raise BadInputError("--response-text", "a response with tokens", "none", "give it some text")
    if tokens > model.max_length:
        where, expected = "--prompt and --response-text", f"at most {model.max_length:,} tokens"
        raise BadInputError(where, expected, f"{tokens:,}", "shorten them")
    return row


def _file_row(model: RewardModel, reader: Reader, number: int) -> TokenizedExample:
    """Return the row with the given number.

    Raises:
        BadInputError: the row does not exist or cannot be used.

    """
    rows = tokenized_rows(reader, model.template, max_length=model.max_length, too_long="reject")
    for row in rows:
        if row.example.row == number:
            return row
        if row.example.row > number:
            break
    where = f"{reader.inputs[0].path if reader.inputs else 'the data'}: row {number}"
    for refused in reader.rejects:
        if refused.row == number:
            raise BadInputError(where, "a row that can be scored", refused.reason, "give another --row")
    raise BadInputError(where, "a row", f"none among {reader.read:,} rows read", "give another --row")


def _one_response(row: TokenizedExample, number: int) -> TokenizedExample:
    """Return the row with only one of its responses.

    Raises:
        BadInputError: the row has fewer responses.

    """
    example, at = row.example, slice(number - 1, number)
    if number > len(row.responses):
        where, expected = f"row {example.row}: --response", f"a number from 1 to {len(row.responses)}"
        raise BadInputError(where, expected, str(number), "choose one")
    alone = example._replace(
        responses=example.responses[at],
        sides=example.sides[at],
        turns=example.turns[at],
        better=(),
        margins=(),
    )
    return row._replace(example=alone, responses=row.responses[at])
