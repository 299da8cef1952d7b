"""The fields that requests and answers of all client protocols share.

Fields that a client's other server has and that change nothing here are let pass; those that would change a
score and that this server does not know are refused by name. `null` stands for the score of a response that
gets none, and a `reason` says why.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from sparserm_cli.config import ScoreLimits

MOST_TURNS = 1024
"""Most turns in one conversation and most parts in one turn."""
NOT_KNOWN: dict[str, tuple[Any, ...]] = {
    "dimensions": (),
    "encoding_format": ("float",),
    "truncation_side": ("left",),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "add_generation_prompt": (False,),
    "continue_final_message": (False,),
    "mm_processor_kwargs": ({},),
    "multi_modal_data": (),
}
"""Fields of other servers that would change a score, with the only value besides null that is accepted."""


def _no_token_ids(value: Any) -> Any:
    """Refuse token ids by name, because their tokenizer is unknown."""
    first = value[0] if isinstance(value, list) and value else None
    first = first[0] if isinstance(first, list) and first else first
    if isinstance(first, int):
        raise ValueError("token ids are not taken: send text")  # noqa: TRY004 - what pydantic reports
    return value


# Validation of a list stops at its first wrong element; otherwise each wrong value would become an error.
TextList = Annotated[list[str], Field(fail_fast=True), BeforeValidator(_no_token_ids)]
Texts = Annotated[str | Annotated[list[str], Field(fail_fast=True)], BeforeValidator(_no_token_ids)]
ENDPOINT = {
    400: "the body is no JSON, or holds what a data file must not hold either",
    401: "the key is missing or wrong",
    408: "the body came too slowly",
    413: "the body is too large, or holds too many inputs",
    422: "the body is not of this shape; with --strict also: a response cannot be scored",
    503: "loading, draining, or too much is waiting: try again after Retry-After seconds",
    504: "the answer took too long",
}
"""The error answers that a scoring endpoint may give."""


class Problem(BaseModel):
    """The content of an error answer."""

    message: str
    type: str
    code: int


class Refusal(BaseModel):
    """An error answer."""

    error: Problem


REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Refusal, "description": text} for status, text in ENDPOINT.items()
}


Parts = Annotated[list[dict[str, Any]], Field(max_length=MOST_TURNS, fail_fast=True)]


class Turn(BaseModel):
    """One turn of a conversation."""

    role: str = Field(min_length=1)
    content: str | Parts | None
    """Text, or parts of type text; null if the assistant only called tools."""


Conversation = Annotated[list[Turn], Field(min_length=2, max_length=MOST_TURNS, fail_fast=True)]
Conversations = Conversation | Annotated[list[Conversation], Field(fail_fast=True)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Request(BaseModel):
    """The optional fields of every request."""

    model_config = ConfigDict(extra="ignore")

    model: str | None = None
    """This field is accepted and ignored, because there is only one model."""
    token_rewards: bool = False
    """Whether to return one reward per response token as well."""
    parts: bool = False
    """Whether to return what each group of directions adds to a score as well; `/info` names the groups."""
    normalize: bool | None = None
    """Count scores in standard deviations of the training responses' scores, from their mean. Null is what
    the server was started with, as for the next two."""
    clip: Positive | None = None
    """Largest absolute score after normalising; scores beyond it are clipped."""
    abstain: Positive | None = None
    """Largest `ood` that still gets a score."""
    truncate_prompt_tokens: Annotated[int, Field(ge=-1)] | None = None
    """Most tokens of prompt and response together: the oldest tokens of a longer prompt are left out, never
    any of the response. -1 is as many as the reward model takes."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_by_name(cls, data: Any) -> Any:
        for name, values in NOT_KNOWN.items():
            value = data.get(name) if isinstance(data, dict) else None
            if value is not None and value not in values:
                raise ValueError(f"{name} is not known to this server, and is not ignored")
        return data

    def guards(self, usual: ScoreLimits) -> ScoreLimits:
        """Return the score limits of this request; a null field takes the server's value from `usual`."""
        own = (self.normalize, self.clip, self.abstain)
        pairs = zip(own, (usual.normalize, usual.clip, usual.abstain), strict=True)
        normalize, clip, abstain = (other if mine is None else mine for mine, other in pairs)
        return ScoreLimits(bool(normalize), clip, abstain)


class Activated(Request):
    """A request whose answer may be given as a classifier's probability."""

    use_activation: bool | None = None
    """Whether to return the logistic function of the score, as classifiers do, instead of the score."""
    activation: bool | None = None
    """The older name of `use_activation`."""

    @model_validator(mode="after")
    def _refuse_both(self) -> Self:
        if None not in (self.activation, self.use_activation) and self.activation != self.use_activation:
            raise ValueError("use_activation and activation contradict each other")
        return self

    @property
    def logistic(self) -> bool:
        """Whether the request asks for the logistic function."""
        return bool(self.use_activation or self.activation)


class Usage(BaseModel):
    """The number of tokens of a request."""

    prompt_tokens: int
    total_tokens: int
    completion_tokens: int = 0


class TokenRewards(BaseModel):
    """Rewards of the tokens of one response."""

    ids: list[int]
    rewards: list[float] | None
    """The rewards of the tokens, which add up to the score; null if there is no score."""
    method: Literal["exact", "integrated gradients"]
    """The method: integrated gradients are approximate."""


class ScoreParts(BaseModel):
    """Parts of the score of one response."""

    values: dict[str, float]
    """Name of a group of directions to what it adds to `intercept`, the score of the mean training response.
    Approximate parts have a `remainder` that they miss."""
    method: Literal["exact", "integrated gradients"]
    """The method: integrated gradients are approximate."""


class Member(BaseModel):
    """The fields that every answer has per response."""

    index: int
    ood: float | None
    """Distance from the training responses, 99 % of which are below 1; null if it was not computed."""
    tokens: TokenRewards | None = None
    parts: ScoreParts | None = None
    """The parts of the score, before any activation, if they were requested."""
    reason: str | None = None
    """The reason why there is no score; null if there is one."""


class Applied(BaseModel):
    """The normalisation and limits that were applied to the scores of an answer."""

    normalize: bool
    clip: float | None
    abstain: float | None


class Answer(BaseModel):
    """The common fields of every answer in the form of OpenAI."""

    id: str
    object: Literal["list"] = "list"
    created: int
    model: str
    usage: Usage
    guards: Applied
