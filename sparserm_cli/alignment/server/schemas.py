"""What the server is sent and what it answers: the shapes of vLLM's, SGLang's and OpenRLHF's reward servers.

Fields that those have and this server has no use for are let pass. `null` stands for the score of a response
that the reward model abstains from.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _no_token_ids(value: Any) -> Any:
    """Refuse token ids by name; whose tokenizer they are of cannot be told."""
    first = value[0] if isinstance(value, list) and value else None
    first = first[0] if isinstance(first, list) and first else first
    if isinstance(first, int):
        raise ValueError("token ids are not taken: send text")  # noqa: TRY004 - what pydantic reports
    return value


Text = str
TextList = Annotated[list[Text], Field(fail_fast=True), BeforeValidator(_no_token_ids)]
Texts = Annotated[Text | Annotated[list[Text], Field(fail_fast=True)], BeforeValidator(_no_token_ids)]
MOST_TURNS = 1024
"""Turns of one conversation."""
ENDPOINT = {
    400: "the body is no JSON, or holds what a data file must not hold either",
    401: "the key is missing or wrong",
    408: "the body came too slowly",
    413: "the body is too large, or holds too many inputs",
    422: "the body is not of this shape, or a response is empty or too long",
    503: "loading, draining, or too much is waiting: try again after Retry-After seconds",
    504: "the answer took too long",
}
"""What else a scoring endpoint may answer."""


class Problem(BaseModel):
    """What went wrong."""

    message: str
    type: str
    code: int


class Refusal(BaseModel):
    """An answer that is not the one asked for."""

    error: Problem


class Turn(BaseModel):
    """One turn of a conversation."""

    role: Text = Field(min_length=1)
    content: Text


class _Asked(BaseModel):
    """What every request may say."""

    model_config = ConfigDict(extra="ignore")

    model: str | None = None
    """Let pass: there is one model."""
    token_rewards: bool = False
    """Whether to answer a reward for each response token as well."""


Conversation = Annotated[list[Turn], Field(min_length=2, max_length=MOST_TURNS, fail_fast=True)]


class ConversationRequest(_Asked):
    """`/v1/embeddings`: conversations, as messages or as text that has been through the chat template."""

    input: Texts | None = None
    """Templated text, one or several; the response is the last turn."""
    messages: Conversation | Annotated[list[Conversation], Field(fail_fast=True)] | None = None
    """A conversation that ends with the response, or several."""


class ClassifyRequest(ConversationRequest):
    """`/classify`: the same."""

    use_activation: bool = False
    """Whether to answer the logistic function of the score, as classifiers do, instead of the score."""


class ScoreRequest(_Asked):
    """`/score`: prompts and responses by themselves; one prompt stands for all responses."""

    queries: Texts | None = None
    """Prompts, each the words of one user turn. Also as `text_1` or `data_1`."""
    text_1: Texts | None = None
    data_1: Texts | None = None
    documents: Texts | None = None
    """Responses. Also as `items`, `text_2` or `data_2`."""
    items: Texts | None = None
    text_2: Texts | None = None
    data_2: Texts | None = None


class RewardRequest(BaseModel):
    """`/get_reward`: OpenRLHF's rollouts."""

    model_config = ConfigDict(extra="ignore")

    query: TextList
    """Prompt and response as one text, decoded with their special tokens."""
    prompts: TextList = []
    """The prompts alone, as many or none; they tell exactly where the responses begin."""
    labels: list[Any] = []
    """Let pass."""
    token_rewards: bool = False
    """Whether to answer a reward for each response token as well."""


class Usage(BaseModel):
    """Tokens of a request."""

    prompt_tokens: int
    total_tokens: int
    completion_tokens: int = 0


class TokenRewards(BaseModel):
    """Rewards of the tokens of one response."""

    ids: list[int]
    rewards: list[float] | None
    """They add up to the score; null where there is none."""
    method: Literal["exact", "integrated gradients"]
    """The latter are approximate."""


class Classified(BaseModel):
    """The class of one conversation, of which there is one."""

    index: int
    label: str = "reward"
    probs: list[float | None]
    """The score alone; no probability, unless an activation was asked for."""
    num_classes: int = 1
    ood: float
    """Distance from the training responses, 99 % of which are below 1."""
    tokens: TokenRewards | None = None


class Embedded(BaseModel):
    """The embedding of one conversation, of one number."""

    index: int
    object: Literal["embedding"] = "embedding"
    embedding: list[float | None]
    """The score alone."""
    ood: float
    tokens: TokenRewards | None = None


class Scored(BaseModel):
    """The score of one response."""

    index: int
    object: Literal["score"] = "score"
    score: float | None
    ood: float
    tokens: TokenRewards | None = None


class _Answer(BaseModel):
    """What every answer says."""

    id: str
    object: Literal["list"] = "list"
    created: int
    model: str
    usage: Usage


class ClassifyAnswer(_Answer):
    """Answer of `/classify`."""

    data: list[Classified]


class EmbeddingsAnswer(_Answer):
    """Answer of `/v1/embeddings`."""

    data: list[Embedded]


class ScoreAnswer(_Answer):
    """Answer of `/score`."""

    data: list[Scored]


class RewardAnswer(BaseModel):
    """Answer of `/get_reward`."""

    rewards: list[float | None]
    scores: list[float | None]
    extra_logs: dict[str, list[float]]
    tokens: list[TokenRewards | None] | None = None
