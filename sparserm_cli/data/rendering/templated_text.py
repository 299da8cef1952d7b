"""Find where the response begins and ends in a text to which the chat template has already been applied.

Trainers post a whole conversation as one text. Its last turn is the response; the marks that a template puts
around that turn are found by rendering a conversation of known words. Text cut here is tokenised to exactly
the ids of the same conversation given as messages, and never gets a second BOS.
"""

from typing import TYPE_CHECKING, NamedTuple

from sparserm_cli.data.example import Message, Rendered
from sparserm_cli.errors import BadInputError, IncompatibleError

if TYPE_CHECKING:
    from sparserm_cli.data.chat_template import PromptTemplate

_ASKED, _ANSWERED = "Where?", "Everywhere!"


class Cut(NamedTuple):
    """A conversation as prompt and response."""

    prompt: Rendered
    """The text up to where the response begins."""
    response: str
    """The words of the last turn, without the end-of-turn token."""


class ConversationText:
    """Cuts templated text into prompt and response.

    Args:
        template: the chat template that has been applied to the text.

    """

    def __init__(self, template: "PromptTemplate") -> None:
        self.bos = template.bos
        """The token with which texts begin; "" if the model has none."""
        question = Message("user", _ASKED)
        rendered_question = template.render((question,))
        tail = rendered_question[rendered_question.rindex(_ASKED) + len(_ASKED) :]
        try:
            closed = template.render_whole((question,))
            whole = template.render_whole((question, Message("assistant", _ANSWERED)))
        except IncompatibleError:
            closed = whole = ""
        self._opening = self.bos if self.bos and rendered_question.startswith(self.bos) else ""
        header = (
            rendered_question.removeprefix(closed)
            if closed and rendered_question.startswith(closed)
            else tail
        )
        self.header = header or tail
        """The text that the template writes before a response."""
        before, mark, after = whole.rpartition(_ANSWERED)
        self.lead = (
            before.removeprefix(rendered_question) if mark and before.startswith(rendered_question) else ""
        )
        """The text between the header and the words of a finished response, such as empty reasoning."""
        self.endings = tuple(dict.fromkeys(mark for mark in (after, after.rstrip(), template.eos) if mark))
        """Texts that may follow the words: the end of a turn, or the token at which a policy stops."""

    def cut(self, text: str, prompt: str = "") -> Cut:
        """Return prompt and response of a conversation that ends with a response.

        Args:
            text: the conversation.
            prompt: the text up to the response, where the sender knows it; without it (or where the text does
                not begin so) the response begins after the last header of the template.

        Raises:
            BadInputError: the text has no such header.

        """
        start = self._known(text, prompt) or self._after_header(text)
        response = text[start:]
        if self.lead and response.startswith(self.lead):
            response = response[len(self.lead) :]
        ending = next((mark for mark in self.endings if response.endswith(mark)), "")
        # Some senders strip the BOS that the template wrote, because another server would double it.
        opening = "" if text.startswith(self.bos) else self._opening
        return Cut(Rendered(opening + text[:start]), response.removesuffix(ending))

    def _known(self, text: str, prompt: str) -> int:
        """Return where a given prompt ends in the text, with or without BOS on either side; 0 if absent."""
        bare = prompt.removeprefix(self.bos)
        skipped = len(text) - len(text.removeprefix(self.bos))
        return skipped + len(bare) if bare and text.startswith(bare, skipped) else 0

    def _after_header(self, text: str) -> int:
        """Return the offset at which the last header ends."""
        place = text.rfind(self.header) if self.header.strip() else -1
        if place < 0:
            expected = f"a conversation with {self.header!r} before the response"
            raise BadInputError(
                "the text", expected, "none", "send messages, or prompt and response by themselves"
            )
        return place + len(self.header)
