"""Asking a `sparserm serve` from Python: posts that wait for a busy server, by the standard library alone."""

import json
import time
import urllib.error
import urllib.request
from typing import Any

from sparserm_cli.errors import BadInputError, IncompatibleError, TemporaryError

PATIENCE = 180.0
"""Longest time that a server may be busy or not there, in seconds."""
_TEMPORARY = frozenset({500, 502, 503, 504})


def post(url: str, body: Any, *, key: str = "", patience: float = PATIENCE) -> Any:
    """Post JSON and return the JSON of the answer.

    A server that is busy or not there is asked again, after as long as it says or one second.

    Args:
        url: of the endpoint.
        body: what to send.
        key: bearer key; "" sends none.
        patience: when to give up, in seconds.

    Raises:
        BadInputError: the server cannot score what was sent.
        IncompatibleError: the key is wrong, or there is another server at this address.
        TemporaryError: it was busy or not there for too long.

    """
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)  # noqa: S310 - the user's URL
    until = time.monotonic() + patience
    while True:
        try:
            with urllib.request.urlopen(request, timeout=patience) as answer:  # noqa: S310
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            if error.code not in _TEMPORARY:
                raise _refusal(url, error) from None
            why, pause = f"HTTP {error.code}", float(error.headers.get("Retry-After") or 1)
        except OSError as error:
            why, pause = str(getattr(error, "reason", error)), 1.0
        if time.monotonic() + pause > until:
            raise TemporaryError(url, "a server that answers", why, "look whether it runs") from None
        time.sleep(pause)


def _refusal(url: str, error: urllib.error.HTTPError) -> BadInputError | IncompatibleError:
    """Return the error that a final status stands for."""
    try:
        said = str(json.loads(error.read())["error"]["message"])
    except (ValueError, KeyError, TypeError):
        said = str(error.reason)
    if error.code in {400, 413, 422}:
        return BadInputError(url, "something to score", said, "leave it out")
    hint = "check address and SPARSERM_API_KEY"
    return IncompatibleError(url, "a sparserm server that lets us in", f"HTTP {error.code}: {said}", hint)
