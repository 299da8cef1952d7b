"""The marks of a context (its words and a few signs of its form), and the name that marks give by rule.

Axes: `marks` of a vocabulary, `contexts`.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from sparserm_cli.analysis.contexts import Context
from sparserm_cli.models.token_text import printable
from sparserm_cli.statistics.names import BalancedAccuracy, balanced_accuracy, log_odds_z

SIGNIFICANT = 1.96
"""Least z-score of a word that is called over-represented."""
MOST_WORDS, CANDIDATES = 5, 40
"""Marks of a name, and marks of which they are chosen, at most."""
GAIN = 0.005
"""Least gain in balanced accuracy, on the contexts that a name is made from, for which a name gets longer."""
PRIOR_CONTEXTS = 10.0
"""Weight of the prior of the log-odds, in contexts."""

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_FORMS = {
    "a number": re.compile(r"\d"),
    "a line break": re.compile(r"\n"),
    "a question mark": re.compile(r"\?"),
    "an exclamation mark": re.compile(r"!"),
    "quotation marks": re.compile('["“”]'),
    "brackets": re.compile(r"[()\[\]]"),
    "a list": re.compile(r"^\s*(?:[-*•]|\d+[.)])\s", re.MULTILINE),
    "capital letters": re.compile(r"\b[A-Z]{2,}\b"),
    "a capitalised word within a sentence": re.compile(r"[a-z,;] [A-Z][a-z]"),
    "code": re.compile(r"[{};=<>]"),
}
"""Signs of form that a context may have, in words."""
START, END = "the start of the response", "the end of the response"


class Marked(NamedTuple):
    """A context's text and marks.

    Fields:
        text: text of the context.
        marks: words in lower case between quotation marks, and signs of form as they are.
    """

    text: str
    marks: frozenset[str]


class WordCount(NamedTuple):
    """One word or sign that is over-represented where a latent fires.

    Fields:
        mark: the word or sign.
        z: z-score of its log-odds ratio.
        firing: number of contexts with firing that have it.
        others: number of contexts without firing that have it.
    """

    mark: str
    z: float
    firing: int
    others: int


class RuleName(NamedTuple):
    """A name made by rule.

    Fields:
        marks: the name holds for a context that has any of these; none where no word stands out.
        score: how well that test does on the contexts kept for scoring.
    """

    marks: tuple[str, ...]
    score: BalancedAccuracy | None

    @property
    def text(self) -> str:
        """The name in one line."""
        return ", ".join(self.marks)


def marked(tokenizer: Any, contexts: Sequence[Context]) -> list[Marked]:
    """Return text and marks of some contexts.

    Args:
        tokenizer: tokenizer of the capture.
        contexts: stretches of responses.

    """
    if not contexts:
        return []
    texts = tokenizer.batch_decode(
        [list(context.ids) for context in contexts],
        skip_special_tokens=False,
        clean_up_tokenization_spaces=False,
    )
    return [Marked(text, _marks(text, context)) for text, context in zip(texts, contexts, strict=True)]


def word_mark(text: str) -> str | None:
    """Return the mark of a token's text, if it is a word."""
    match = _WORD.fullmatch(text.strip())
    return f"“{match[0].lower()}”" if match and len(match[0]) > 1 else None


def over_represented(firing: Sequence[Marked], others: Sequence[Marked]) -> list[WordCount]:
    """Return the marks by falling z-score of their log-odds ratio between two sets of contexts.

    A context counts a mark once, and every context is of another prompt. The prior is the share of contexts
    of both sets that have the mark, as strong as `PRIOR_CONTEXTS` contexts.
    """
    if not firing or not others:
        return []
    counts, other_counts = (
        Counter(mark for context in side for mark in context.marks) for side in (firing, others)
    )
    marks = sorted(counts.keys() | other_counts.keys())
    here, there = (np.array([side[mark] for mark in marks], np.int64) for side in (counts, other_counts))
    prior = PRIOR_CONTEXTS * (here + there) / (len(firing) + len(others))
    scores = log_odds_z(here, there, prior)
    order = np.argsort(-scores, kind="stable")
    return [WordCount(marks[at], float(scores[at]), int(here[at]), int(there[at])) for at in order]


def rule_name(
    firing: tuple[Sequence[Marked], Sequence[Marked]],
    others: tuple[Sequence[Marked], Sequence[Marked]],
    promoted: Sequence[str],
) -> RuleName:
    """Make a name of marks from the first contexts of each pair, and test it on the second.

    Candidates are the over-represented marks and the words that the direction promotes. The mark that raises
    the balanced accuracy on the first contexts most is taken, then the next, as long as there is a gain.

    Args:
        firing: contexts with firing, for naming and for scoring.
        others: contexts without, for naming and for scoring.
        promoted: marks of the words that the decoder row promotes.

    """
    words = over_represented(firing[0], others[0])
    candidates = [word.mark for word in words if word.z >= SIGNIFICANT][:CANDIDATES]
    candidates += [mark for mark in promoted if mark not in candidates]
    taken: list[str] = []
    best = 0.5
    while len(taken) < MOST_WORDS:
        tried = [
            (_tested((*taken, mark), firing[0], others[0]).value, mark)
            for mark in candidates
            if mark not in taken
        ]
        value, mark = max(tried, key=lambda trial: trial[0], default=(0.0, ""))
        if value < best + GAIN:
            break
        taken.append(mark)
        best = value
    return RuleName(tuple(taken), _tested(taken, firing[1], others[1]) if taken else None)


def _tested(marks: Sequence[str], firing: Sequence[Marked], others: Sequence[Marked]) -> BalancedAccuracy:
    """Return how well it does to say that a latent fires wherever one of the marks is."""
    wanted = frozenset(marks)
    right = sum(not wanted.isdisjoint(context.marks) for context in firing)
    passed = sum(wanted.isdisjoint(context.marks) for context in others)
    return balanced_accuracy(right, len(firing), passed, len(others))


def _marks(text: str, context: Context) -> frozenset[str]:
    """Return the words and signs of a context."""
    marks = {f"“{word.lower()}”" for word in _WORD.findall(text)}
    marks |= {name for name, form in _FORMS.items() if form.search(text)}
    if context.start == 0:
        marks.add(START)
    if context.last:
        marks.add(END)
    return frozenset(printable(mark) for mark in marks)
