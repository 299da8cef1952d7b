"""`explain`: why one response got its score, direction by direction and token by token.

Reads: `reward/`, its language model, one response; `directions/` for the rates, if it is still there.
Writes: nothing. Memory: the model's lower blocks and the residual stream of one prompt's responses.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from sparserm_cli.analysis.token_text import token_texts
from sparserm_cli.config import ExplainConfig, Note
from sparserm_cli.data.chat_template import EncodedExample
from sparserm_cli.data.example import UNLABELLED, Example
from sparserm_cli.data.reader import Reader
from sparserm_cli.data.tokenized_rows import encoded_rows
from sparserm_cli.errors import BadInputError
from sparserm_cli.models.checkpoints.resolve import load_tokenizer
from sparserm_cli.models.head.attribution import Attribution, Method, attributions, columns
from sparserm_cli.models.reward_model import RewardModel
from sparserm_cli.stages.score.responses import load_reward, responses_reader
from sparserm_cli.store.artifacts.directions import JSON, Directions, directions_path, read_directions
from sparserm_cli.store.io.storage import is_there


class DirectionShare(NamedTuple):
    """One projection's part in a score.

    Fields:
        layer: block from 0.
        pool: mean or last.
        feature: latent of the SAE; None for a random direction.
        side: 1 preferred, -1 dispreferred.
        rate_chosen: share of the chosen tokens or responses on which the latent fires; None if unknown.
        rate_rejected: the same of the rejected side.
        projection: standard deviations above the mean training response.
        contribution: what it adds to the score.
    """

    layer: int
    pool: str
    feature: int | None
    side: int
    rate_chosen: float | None
    rate_rejected: float | None
    projection: float
    contribution: float


class TokenShare(NamedTuple):
    """One response token's part in a score.

    Fields:
        text: of the token; "" if the next one has its character.
        id: in the tokenizer's vocabulary.
        contribution: what it adds to the score, its share of the intercept included.
    """

    text: str
    id: int
    contribution: float


class Explanation(NamedTuple):
    """Why one response got its score.

    Fields:
        row: its row in the file, from 1; 1 for a response given as text.
        response: its number in the row, from 1.
        prompt: as the model sees it.
        text: of the response.
        score: its reward.
        intercept: what the mean training response scores; with the directions' parts it makes the score.
        method: `exact`, or `integrated gradients`, which are approximate.
        error: what the parts miss of the score.
        pool: what the head looks at: mean, last or both.
        directions: the parts of all projections, the largest first.
        tokens: the parts of all tokens, in order; they add up to the score.
    """

    row: int
    response: int
    prompt: str
    text: str
    score: float
    intercept: float
    method: Method
    error: float
    pool: str
    directions: tuple[DirectionShare, ...]
    tokens: tuple[TokenShare, ...]


def explain(config: ExplainConfig, *, note: Note) -> Explanation:
    """Divide the score of one response among directions and tokens.

    Args:
        config: the options.
        note: told what is worth knowing on the way.

    Raises:
        BadInputError: the file has no such row or response, or the row cannot be used.
        IncompatibleError: the reward model was fitted on another model, tokenizer or template.
        CorruptStoreError: the reward model is damaged.
        ResourceError: the device is not there, or its memory does not suffice.

    """
    # 1. The file is looked at before the model is loaded, so that a typing mistake costs no waiting.
    kept = replace(config, on_bad_row="reject")
    reader = None if config.prompt is not None else responses_reader(kept, purpose="responses")
    model = load_reward(config)
    note(f"explaining with {model.path} in {model.lm.dtype} on {model.lm.device}")
    # 2. The one response, and the parts of its score.
    row = _typed_row(model, config) if reader is None else _file_row(model, reader, config.row)
    row = _one_response(row, config.response)
    (found,) = attributions(model.lm, model.head, [row])
    if found.method != "exact":
        note(f"integrated gradients are approximate: here they miss {found.error:+.1e} of the score")
    # 3. The numbers get their names.
    return Explanation(
        row.example.row,
        config.response,
        row.prompt_text,
        row.example.responses[0],
        found.score,
        found.intercept,
        found.method,
        found.error,
        model.config.pool,
        tuple(sorted(_directions(model, found), key=lambda one: -abs(one.contribution))),
        tuple(_tokens(model, row, found)),
    )


def _typed_row(model: RewardModel, config: ExplainConfig) -> EncodedExample:
    """Return the prompt and response of the command line as a row.

    Raises:
        BadInputError: the response has no token, or both together have too many.

    """
    prompt, text = config.prompt or "", config.response_text or ""
    (row,) = model.template.encode([Example(1, None, prompt, (text,), (UNLABELLED,), None, {})])
    tokens = len(row.responses[0].prompt_ids) + len(row.responses[0].response_ids)
    if not len(row.responses[0].response_ids):
        raise BadInputError("--response-text", "a response with tokens", "none", "give it some text")
    if tokens > model.max_length:
        where, expected = "--prompt and --response-text", f"at most {model.max_length:,} tokens"
        raise BadInputError(where, expected, f"{tokens:,}", "shorten them")
    return row


def _file_row(model: RewardModel, reader: Reader, number: int) -> EncodedExample:
    """Return the row of that number.

    Raises:
        BadInputError: there is none, or it cannot be used.

    """
    rows = encoded_rows(reader, model.template, max_length=model.max_length, too_long="reject")
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


def _one_response(row: EncodedExample, number: int) -> EncodedExample:
    """Return the row with one of its responses alone.

    Raises:
        BadInputError: there are not so many.

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


def _directions(model: RewardModel, found: Attribution) -> Iterator[DirectionShare]:
    """Yield the part of each projection with what is known of its direction."""
    selection, table = model.config.selection, _rates(model)
    latents, sides = selection.get("latents", {}), selection.get("sides", {})
    for number, (layer, pooling, at) in enumerate(columns(model.head)):
        feature = latents[str(layer)][at] if str(layer) in latents else -1
        known = table.layers[layer] if table is not None else None
        yield DirectionShare(
            layer,
            pooling,
            None if feature < 0 else int(feature),
            int(sides[str(layer)][at]) if str(layer) in sides else 0,
            None if known is None else _number(known.rate_chosen[at]),
            None if known is None else _number(known.rate_rejected[at]),
            float(found.projections[number]),
            float(found.directions[number]),
        )


def _number(value: float) -> float | None:
    """Return a number, None for NaN."""
    return None if np.isnan(value) else float(value)


def _rates(model: RewardModel) -> Directions | None:
    """Return the directions beside the reward model, if they are those it was made of.

    Raises:
        CorruptStoreError: they are damaged.

    """
    run = model.path.parent
    if not is_there(directions_path(run), JSON):
        return None
    there = read_directions(run)
    recorded = model.config.lineage.parents.get(there.lineage.type)
    return there if recorded is not None and recorded.digest == there.lineage.digest else None


def _tokens(model: RewardModel, row: EncodedExample, found: Attribution) -> Iterator[TokenShare]:
    """Yield the part of each token with its text."""
    taken = row.responses[0]
    texts = token_texts(load_tokenizer(model.lm.identity), taken.response_ids, taken.prompt_ids)
    for text, number, part in zip(texts, taken.response_ids, found.tokens, strict=True):
        yield TokenShare(text, int(number), float(part))
