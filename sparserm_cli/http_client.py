"""A client for JSON over HTTP that waits for a busy server and rejects incomplete answers.

| what happens | what follows |
|---|---|
| no connection, a broken one, a cut answer, a bad status line | asked again until the deadline |
| 408, 425, 429, 5xx | asked again, after as long as `Retry-After` says (a number or a date) or one second |
| 500 three times | `BadInputError`: the server fails at what was sent, so that it is tried in smaller parts |
| 200 with something that is no JSON object | asked again until the deadline |
| 400, 413, 422 | `BadInputError`: what was sent cannot be scored |
| a redirect | `IncompatibleError`: it is never followed, so the key goes to no other place |
| other statuses | `IncompatibleError`: a wrong key or address |
"""

import json
import math
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from sparserm_cli.errors import BadInputError, IncompatibleError, SparseRMError, TemporaryError

if TYPE_CHECKING:
    import httpx2

PATIENCE = 180.0
"""Longest time in seconds that a server may be busy or unreachable."""
_MOST_BYTES = 1 << 28  # more than the token rewards of the largest request
_MOST_PAUSE, _LEAST_PAUSE, _PAUSE = 30.0, 0.02, 1.0
_TRIES_AT_500 = 3
_TRY_AGAIN = frozenset({408, 425, 429})
_FAILED = "HTTP 500"
_UNUSABLE = frozenset({400, 413, 422})
_SHOWN_CHARACTERS = 200


class Words(NamedTuple):
    """What errors about a kind of server say.

    Fields:
        content: what the server expects in a request.
        unusable: what to do about a request that it refuses.
        server: which server is expected at the address.
        refused: what to do where the address or the key is wrong.
    """

    content: str
    unusable: str
    server: str
    refused: str


REWARDS = Words(
    "something to score",
    "leave it out",
    "a sparserm server that lets us in",
    "check address and SPARSERM_API_KEY",
)
"""The words about `sparserm serve`."""


class Client:
    """Posts to one server; threads and forked processes may share a client.

    Args:
        url: the server's address, such as `http://127.0.0.1:8000`.
        key: the bearer key; "" sends none.
        words: what errors say.

    """

    def __init__(self, url: str, key: str = "", words: Words = REWARDS) -> None:
        import httpx2

        self.url, self._words = url.rstrip("/"), words
        # Each connection is used once, because forked processes that share one would mix up answers.
        limits = httpx2.Limits(max_keepalive_connections=0)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx2.Client(limits=limits, headers=headers, follow_redirects=False)

    def post(self, path: str, body: Any, *, until: float | None = None) -> dict[str, Any]:
        """Post JSON and return the object that the server answers.

        Args:
            path: path of the endpoint, such as `/score`.
            body: the JSON object to send.
            until: the deadline on the clock of `time.monotonic`; None is `PATIENCE` seconds from now.

        Raises:
            BadInputError: the server cannot score what was sent.
            IncompatibleError: the key is wrong, or another kind of server is at this address.
            TemporaryError: until the deadline the server was busy, unreachable or gave unreadable answers.

        """
        return self._asked("POST", self.url + path, json.dumps(body).encode(), until)

    def get(self, path: str, *, until: float | None = None) -> dict[str, Any]:
        """Return the object at a path; arguments and errors as of `post`."""
        return self._asked("GET", self.url + path, b"", until)

    def _asked(self, method: str, where: str, data: bytes, until: float | None) -> dict[str, Any]:
        """Ask until there is an answer or the deadline has passed."""
        until = time.monotonic() + PATIENCE if until is None else until
        failures = 0
        while True:
            answer, why, pause = self._ask(method, where, data, until)
            if answer is not None:
                return answer
            failures += why == _FAILED
            if failures == _TRIES_AT_500:
                words = self._words
                raise BadInputError(where, words.content, f"{why} {failures} times", words.unusable)
            if time.monotonic() + pause > until:
                raise TemporaryError(where, "a server that answers", why, "look whether it runs")
            time.sleep(pause)

    def _ask(
        self, method: str, where: str, data: bytes, until: float
    ) -> tuple[dict[str, Any] | None, str, float]:
        """Ask once; return the answer, or None with the reason and how long to wait before the next try."""
        import httpx2

        left = max(_LEAST_PAUSE, until - time.monotonic())
        headers = {"Content-Type": "application/json"}
        try:
            with self._http.stream(method, where, content=data, headers=headers, timeout=left) as reply:
                content = _read(reply, until)
        except httpx2.InvalidURL as error:
            raise IncompatibleError(where, "an address", _shown(error), "repair it") from None
        except httpx2.UnsupportedProtocol as error:
            raise IncompatibleError(where, "an address", _shown(error), "repair it") from None
        except (httpx2.HTTPError, OSError) as error:
            return None, _shown(error) or type(error).__name__, _PAUSE
        value = _object(content)
        if reply.status_code == 200:
            return value, "HTTP 200 without a JSON object", _PAUSE
        if reply.status_code in _TRY_AGAIN or reply.status_code >= 500:
            return None, f"HTTP {reply.status_code}", _pause(reply.headers.get("Retry-After"))
        raise _refusal(where, reply, value, self._words)


def _read(reply: "httpx2.Response", until: float) -> bytes:
    """Read an answer within limits on its size and on the time it takes.

    Raises:
        OSError: the answer is too large, or the deadline has passed.

    """
    parts, size = [], 0
    for part in reply.iter_bytes():
        parts.append(part)
        size += len(part)
        if size > _MOST_BYTES:
            raise OSError(f"an answer of more than {_MOST_BYTES:,} bytes")
        if time.monotonic() > until:
            raise OSError("an answer that did not end in time")
    return b"".join(parts)


def _object(content: bytes) -> dict[str, Any] | None:
    """Return the JSON object of an answer; None if the answer is not one."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _pause(retry_after: str | None) -> float:
    """Return the seconds to wait: the value of the header within bounds, otherwise one second."""
    try:
        seconds = float(retry_after or "")
    except ValueError:
        seconds = _until_date(retry_after or "")
    if not math.isfinite(seconds) or seconds < 0:
        seconds = _PAUSE
    return min(max(seconds, _LEAST_PAUSE), _MOST_PAUSE)


def _until_date(text: str) -> float:
    """Return the seconds until a date in the format of HTTP; NaN if the text is not a date."""
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return math.nan
    return (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds()


def _refusal(
    where: str, reply: "httpx2.Response", value: dict[str, Any] | None, words: Words
) -> SparseRMError:
    """Return the error that a final status stands for."""
    error = (value or {}).get("error")
    said = error.get("message") if isinstance(error, dict) else None
    message = _shown(said if isinstance(said, str) else reply.reason_phrase)
    if reply.status_code in _UNUSABLE:
        return BadInputError(where, words.content, message, words.unusable)
    if reply.is_redirect:
        found = f"HTTP {reply.status_code} to {_shown(reply.headers['Location'])}"
        return IncompatibleError(where, "an answer", found, "give the address that answers itself")
    return IncompatibleError(where, words.server, f"HTTP {reply.status_code}: {message}", words.refused)


def _shown(value: object) -> str:
    """Return text from another machine as one short line that a terminal can show."""
    text = " ".join(str(value).split())
    return "".join(sign if sign.isprintable() else "?" for sign in text)[:_SHOWN_CHARACTERS]
