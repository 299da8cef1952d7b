"""What is stored of each direction: its tokens, its words, examples, and names with their tests."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from sparserm_cli.analysis.contexts import Context, Firing, Halves, halves, over_quantiles
from sparserm_cli.analysis.describe.keywords import (
    SIGNIFICANT,
    Marked,
    RuleName,
    marked,
    over_represented,
    rule_name,
    word_mark,
)
from sparserm_cli.analysis.describe.language_model_names import Describer, ModelName
from sparserm_cli.analysis.describe.promoted_tokens import Ends, TokenLogit
from sparserm_cli.models.token_text import printable, token_texts
from sparserm_cli.statistics.names import BalancedAccuracy

EXAMPLES, PEAKS, WORDS = 8, 6, 10
"""Examples, tokens and words of each direction that are stored."""
SHOWN_TO_MODEL = 12
"""Contexts from which a language model makes a name."""


class Evidence(NamedTuple):
    """What is known of one direction.

    Fields:
        feature: its latent; -1 for a random direction.
        side: 1 preferred, -1 dispreferred.
        ends: tokens that it promotes and suppresses; None if they are not known.
        firing: where the latent fires; None for a random direction.
        page: address of the latent's page on Neuronpedia, if there is one.
    """

    feature: int
    side: int
    ends: Ends | None
    firing: Firing | None
    page: str | None


def record(
    evidence: Evidence, tokenizer: Any, describer: Describer | None = None, judged: int = 0
) -> dict[str, Any]:
    """Name a direction, test the name and return the direction's description.

    Args:
        evidence: what is known of the direction.
        tokenizer: tokenizer of the capture.
        describer: language model that makes the name; None makes it by rule alone.
        judged: number of held-out contexts with and without firing, each, that the language model judges.

    Returns:
        the JSON object that `store/artifacts/descriptions.py` describes.

    Raises:
        IncompatibleError, BadInputError, TemporaryError: as `Describer.name`.

    """
    ends, firing = evidence.ends, evidence.firing
    known: dict[str, Any] = {
        "feature": None if evidence.feature < 0 else evidence.feature,
        "side": evidence.side,
        "promotes": _tokens(ends.promoted if ends else ()),
        "suppresses": _tokens(ends.suppressed if ends else ()),
        "neuronpedia": evidence.page,
    }
    if firing is None:
        empty: dict[str, Any] = {"words": [], "peaks": [], "examples": [], "responses": 0}
        return {"name": None, "rule": None, "model": None, **known, **empty}
    with_it, without = _sides(tokenizer, firing.firing), _sides(tokenizer, firing.others)
    words = [word for word in over_represented(with_it[0], without[0]) if word.z >= SIGNIFICANT][:WORDS]
    rule = rule_name(with_it, without, _promoted_marks(ends))
    model = None
    if describer is not None:
        held_out = [[context.text for context in side[1][:judged]] for side in (with_it, without)]
        model = describer.name(_marked_examples(tokenizer, firing), words, ends, *held_out)
    named = rule if model is None else model
    beats = named.score is not None and named.score.beats_chance
    return {
        "name": named.text if beats and named.text else None,
        "rule": _rule(rule),
        "model": _model(model),
        **known,
        "words": [word._asdict() for word in words],
        "peaks": _peaks(tokenizer, firing),
        "examples": [
            _example(tokenizer, context) for context in over_quantiles(halves(firing.firing), EXAMPLES)
        ],
        "responses": firing.responses,
    }


def _sides(tokenizer: Any, sample: Halves) -> tuple[list[Marked], list[Marked]]:
    """Return the contexts of a sample with their marks, those for naming and those for scoring."""
    return marked(tokenizer, sample.naming), marked(tokenizer, sample.scoring)


def _promoted_marks(ends: Ends | None) -> list[str]:
    """Return the words among the promoted tokens, each once."""
    marks = (word_mark(token.text) for token in (ends.promoted if ends else ()))
    return list(dict.fromkeys(mark for mark in marks if mark is not None))


def _marked_examples(tokenizer: Any, firing: Firing) -> list[str]:
    """Return contexts over the quantiles, with the tokens on which the latent fires between << and >>."""
    return [
        "".join(
            f"<<{text}>>" if value > 0 else text for text, value in _example(tokenizer, context)["tokens"]
        )
        for context in over_quantiles(firing.firing.naming, SHOWN_TO_MODEL)
    ]


def _example(tokenizer: Any, context: Context) -> dict[str, Any]:
    """Return a context as it is stored."""
    texts = token_texts(tokenizer, np.array(context.ids, np.uint32))
    tokens = [[printable(text), round(value, 4)] for text, value in zip(texts, context.values, strict=True)]
    return {"value": round(context.value, 4), "tokens": tokens}


def _peaks(tokenizer: Any, firing: Firing) -> list[dict[str, Any]]:
    """Return the tokens on which a latent fires most strongly within a response, the most frequent first."""
    contexts = halves(firing.firing)
    counts = Counter(context.ids[context.peak - context.start] for context in contexts)
    return [
        {"text": printable(str(tokenizer.decode([number]))), "share": round(count / len(contexts), 4)}
        for number, count in counts.most_common(PEAKS)
    ]


def _tokens(tokens: Sequence[TokenLogit]) -> list[dict[str, Any]]:
    return [{**token._asdict(), "logit": round(token.logit, 4)} for token in tokens]


def _rule(name: RuleName) -> dict[str, Any] | None:
    """Return a name made by rule as it is stored."""
    if name.score is None:
        return None
    return {"text": name.text, "marks": list(name.marks), "score": _score(name.score)}


def _model(name: ModelName | None) -> dict[str, Any] | None:
    """Return a name made by a language model as it is stored."""
    return None if name is None else {**name._asdict(), "score": _score(name.score)}


def _score(score: BalancedAccuracy) -> Mapping[str, Any]:
    return score._asdict()
