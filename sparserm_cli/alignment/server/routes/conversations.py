"""Code shared by protocols that send conversations, as messages or as already templated text."""

from collections.abc import Sequence

from sparserm_cli.alignment.server.gate import RefusedError
from sparserm_cli.alignment.server.schemas import Conversations, Request, Texts, Turn
from sparserm_cli.alignment.server.scoring import Pair, Unscorable, cut_text
from sparserm_cli.alignment.server.service import Service
from sparserm_cli.data.example import RowError
from sparserm_cli.data.messages import normalise_messages, response_of


class ConversationRequest(Request):
    """Conversations as messages, or as text to which the chat template has been applied."""

    input: Texts | None = None
    """One or several templated texts; the response is the last turn."""
    messages: Conversations | None = None
    """One or several conversations, each ending with the response."""


def pairs_of(service: Service, request: ConversationRequest) -> list[Pair]:
    """Return prompts and responses of a request with conversations.

    Raises:
        RefusedError: the request has neither text nor messages, or both.

    """
    if (request.input is None) == (request.messages is None):
        raise RefusedError(422, "either input or messages is needed")
    if request.input is not None:
        texts = [request.input] if isinstance(request.input, str) else request.input
        return [cut_text(service, text) for text in texts]
    return [_pair(turns) for turns in _listed(request.messages or [])]


def _listed(messages: Conversations) -> Sequence[Sequence[Turn]]:
    """Return a list of conversations; a single conversation may have been sent without a list."""
    return [messages] if messages and isinstance(messages[0], Turn) else messages  # type: ignore[return-value]


def _pair(turns: Sequence[Turn]) -> Pair:
    try:
        return response_of(normalise_messages([turn.model_dump() for turn in turns]))
    except RowError as error:
        return Unscorable(f"{error.field}: {error.reason}")
