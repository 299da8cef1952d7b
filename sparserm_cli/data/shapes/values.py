r"""Read cells that may hold text, messages, messages as JSON text, or a transcript.

Messages are understood in the spelling of OpenAI (`role`, `content`) and of ShareGPT (`from`, `value`), with
the role names of both.
"""

import re
from collections.abc import Mapping
from typing import Any

from sparserm_cli.data import fields
from sparserm_cli.data.example import Message, RowError
from sparserm_cli.data.messages import listed, normalise_messages
from sparserm_cli.data.sources.strict_json import Line, kind_of, parse_json, shown

ROLES = {
    "system": "system",
    "user": "user",
    "assistant": "assistant",
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bard": "assistant",
    "bing": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "observation": "tool",
    "function_response": "tool",
}
"""The chat template's role name for each role name of other formats; other names are kept."""

_KEYS = ({"role", "content"}, {"from", "value"})
_TURN = re.compile(r"(?:^\s*|\n\n)(Human|Assistant):")
_TRANSCRIPT_ROLES = {"Human": "user", "Assistant": "assistant"}
_PYTHON_LIST = re.compile(r"""^\s*\[\s*\{\s*'(role|from|content|value)'\s*:""")


def is_message(value: Any) -> bool:
    """Whether a value is an object with the keys of a message."""
    return isinstance(value, Mapping) and any(keys <= value.keys() for keys in _KEYS)


def is_messages(value: Any) -> bool:
    """Whether a value is a list of at least one message, or one message by itself."""
    turns = listed(value)
    return is_message(value) if turns is None else bool(turns) and all(map(is_message, turns))


def messages(value: Any, field: str) -> tuple[Message, ...]:
    """Return a list of messages, or one message, in the spelling and with the role names of OpenAI.

    Raises:
        RowError: the value is neither, or holds content other than text.

    """
    turns = [value] if isinstance(value, Mapping) else listed(value)
    if turns is None:
        raise RowError("a list of messages", kind_of(value), field=field)
    return normalise_messages([_spelled(turn) for turn in turns], field)


def from_json(text: str, field: str) -> Any:
    """Return the parsed value of a cell with the JSON text of a list of messages or strings, else the text.

    Raises:
        RowError: the cell holds a list of messages as Python prints it, which is not JSON.

    """
    if _PYTHON_LIST.match(text):
        raise RowError("messages as JSON text", "a list as Python prints it", field=field)
    if not text.lstrip().startswith(("[", "{")):
        return text
    data = text.encode("utf-8", "surrogatepass")
    try:
        value = parse_json(Line(1, 0, data, len(data), ended=True))
    except RowError:
        return text
    strings = isinstance(value, list) and bool(value) and all(isinstance(item, str) for item in value)
    return value if strings or is_messages(value) else text


def is_transcript(value: Any) -> bool:
    """Whether a text begins as a transcript of `Human:` and `Assistant:` does and has two turns."""
    return isinstance(value, str) and value.lstrip().startswith("Human:") and len(_TURN.findall(value)) > 1


def transcript(text: str, field: str) -> tuple[Message, ...]:
    r"""Return the turns of a `\n\nHuman: ...\n\nAssistant: ...` transcript, stripped."""
    pieces = _TURN.split(text)
    if pieces[0].strip() or len(pieces) < 3:
        raise RowError(r"a transcript that begins with \n\nHuman:", shown(text, 30), field=field)
    return tuple(
        Message(_TRANSCRIPT_ROLES[role], said.strip())
        for role, said in zip(pieces[1::2], pieces[2::2], strict=True)
    )


def open_transcript(text: str) -> tuple[Message, ...] | None:
    """Return the turns of a transcript with nothing after its last `Assistant:`; None for other text."""
    if not is_transcript(text):
        return None
    turns = transcript(text, "prompt")
    last = turns[-1]
    return turns[:-1] if last.role == "assistant" and not last.content and len(turns) > 1 else None


def reply(turns: tuple[Message, ...], field: str) -> tuple[tuple[Message, ...], Message]:
    """Split a conversation into what comes before its last turn and that turn, an assistant's with words.

    Raises:
        RowError: the last turn is not the assistant's, or is empty.

    """
    before, _ = fields.answer(turns, field) if not turns[-1].extras else (turns[:-1], "")
    last = turns[-1]
    if last.role != "assistant":
        raise RowError("a last turn of the assistant", f"one of role {shown(last.role)}", field=field)
    return before, last


def _spelled(turn: Any) -> Any:
    """Return a message with the keys and role names of OpenAI."""
    if not isinstance(turn, Mapping):
        return turn
    spelled = dict(turn)
    if "from" in turn and "value" in turn and turn.get("role") is None:
        spelled |= {"role": spelled.pop("from"), "content": spelled.pop("value")}
    role = spelled.get("role")
    if isinstance(role, str):
        spelled["role"] = ROLES.get(role.lower(), role)
    return spelled
