"""Rewards from a `sparserm serve`.

What is wrong from the start (the address, the key, guards that the server does not know, nobody there) is an
error. Once the server has answered, its failures stop no training run: the responses they concern have no
reward, and the reason is logged.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sparserm_cli.alignment.trainers.judging import Conversation, Judged, Scorer
from sparserm_cli.config import ScoreLimits
from sparserm_cli.data.example import Message
from sparserm_cli.errors import IncompatibleError, TemporaryError
from sparserm_cli.http_client import Client


class ServerScorer(Scorer):
    """Scores with a `sparserm serve`.

    Args:
        url: the server's address, such as `http://127.0.0.1:8000`.
        key: the server's bearer key; "" sends none.
        guards: those that differ from `ScoreLimits()` are sent with every request and apply instead of the
            server's own; a server that does not say that it applied them is refused.

    """

    def __init__(self, url: str, key: str, guards: ScoreLimits) -> None:
        self._client = Client(url, key)
        self._guards = {name: value for name, value in asdict(guards).items() if value not in (None, False)}
        self._answered = False

    def _score(self, pairs: Sequence[Conversation], by_token: bool, until: float) -> list[Judged]:
        body: dict[str, Any]
        if all(isinstance(prompt, str) for prompt, _ in pairs):
            body = {"queries": [prompt for prompt, _ in pairs], "documents": [text for _, text in pairs]}
            return self._ask("/score", {**body, "token_rewards": by_token}, len(pairs), until, _scores)
        body = {"messages": [[*_messages(prompt), _turn("assistant", text)] for prompt, text in pairs]}
        return self._ask("/classify", {**body, "token_rewards": by_token}, len(pairs), until, _classes)

    def _score_texts(self, pairs: Sequence[tuple[str, str]], by_token: bool, until: float) -> list[Judged]:
        body = {"query": [text for text, _ in pairs], "prompts": [prompt for _, prompt in pairs]}
        return self._ask("/get_reward", {**body, "token_rewards": by_token}, len(pairs), until, _rewards)

    def _ask(
        self,
        path: str,
        body: Mapping[str, Any],
        count: int,
        until: float,
        read: Callable[[Any], list[Judged]],
    ) -> list[Judged]:
        """Post a request, check the answer and return its results as `read` gives them, one per response."""
        try:
            answer = self._client.post(path, {**body, **self._guards}, until=until)
            self._check_guards(path, answer)
            results = self._read(path, answer, count, read)
        except (TemporaryError, IncompatibleError) as error:
            if not self._answered:
                raise
            return [Judged(reason=str(error))] * count
        self._answered = True
        return results

    def _check_guards(self, path: str, answer: Mapping[str, Any]) -> None:
        """Raise an error if the guards were not applied to the scores."""
        applied = answer.get("guards")
        for name, value in self._guards.items():
            applied_value = applied.get(name) if isinstance(applied, dict) else None
            if applied_value != value:
                where = f"{self._client.url}{path}: the guard {name}"
                hint = "update the server, or give the guard to `sparserm serve` and leave it out here"
                raise IncompatibleError(
                    where, str(value), "none" if applied_value is None else repr(applied_value), hint
                )

    def _read(self, path: str, answer: Any, count: int, read: Callable[[Any], list[Judged]]) -> list[Judged]:
        """Return the result of each response from an answer.

        Raises:
            IncompatibleError: the answer does not have exactly one result per response.

        """
        try:
            results = read(answer)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            fault = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        else:
            if len(results) == count:
                return results
            fault = f"{len(results)} of them"
        expected = f"scores of {count} responses by their index"
        raise IncompatibleError(self._client.url + path, expected, fault, "look what runs at this address")


def _scores(answer: Any) -> list[Judged]:
    """Return the result of each response from an answer of `/score`."""
    return [_judged(row["score"], row["ood"], row.get("tokens"), row.get("reason")) for row in _rows(answer)]


def _classes(answer: Any) -> list[Judged]:
    """Return the result of each response from an answer of `/classify`."""
    return [
        _judged(row["probs"][0], row["ood"], row.get("tokens"), row.get("reason")) for row in _rows(answer)
    ]


def _rewards(answer: Any) -> list[Judged]:
    """Return the result of each response from an answer of `/get_reward`."""
    scores = answer["rewards"]
    tokens = answer.get("tokens") or [None] * len(scores)
    reasons = answer.get("reasons") or [None] * len(scores)
    rows = zip(scores, answer["extra_logs"]["ood"], tokens, reasons, strict=True)
    return [_judged(*row) for row in rows]


def _rows(answer: Any) -> list[Any]:
    """Return the rows of an answer in the order of their indices.

    Raises:
        ValueError: an index is missing or occurs twice.

    """
    rows = answer["data"]
    indices = [row["index"] for row in rows]
    if sorted(indices) != list(range(len(rows))):
        raise ValueError(f"indices {indices[:5]}")
    return sorted(rows, key=lambda row: row["index"])


def _judged(score: Any, ood: Any, tokens: Any, reason: Any) -> Judged:
    """Return the result of one response.

    Raises:
        ValueError: the score is neither a finite number nor null.

    """
    rewards = None if tokens is None else tokens["rewards"]
    parts = None if rewards is None else [_number(value) for value in rewards]
    return Judged(
        None if score is None else _number(score),
        None if ood is None else _number(ood),
        parts,
        "" if score is not None or ood is not None else str(reason or "the server gave no reason"),
    )


def _number(value: Any) -> float:
    """Return a finite number.

    Raises:
        ValueError: the value is anything else.

    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{str(value)[:40]!r} for a number")
    return float(value)


def _messages(prompt: tuple[Message, ...] | str) -> list[dict[str, str]]:
    """Return a prompt as messages."""
    return [_turn("user", prompt)] if isinstance(prompt, str) else [turn.plain() for turn in prompt]


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
