"""A fitted reward model ready to score: the lower blocks of the language model, the directions and the head.

Reads: a `reward/` folder and the language model it names. No SAE and no sae_lens are needed.
Memory: the model's lower blocks and one batch. Axes: n (responses).
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, NamedTuple, Self, cast

import numpy as np
from jaxtyping import Float32

from sparserm_cli.config import Guards
from sparserm_cli.data.chat_template import EncodedExample, EncodedResponse, PromptTemplate, tokenizer_digest
from sparserm_cli.data.example import UNLABELLED, Example, Message, RowError
from sparserm_cli.data.messages import normalise_prompt, plain_text
from sparserm_cli.errors import BadInputError, IncompatibleError
from sparserm_cli.locations import place
from sparserm_cli.models.checkpoints.resolve import load_tokenizer, resolve_model
from sparserm_cli.models.head.attribution import Method, attributions
from sparserm_cli.models.head.out_of_distribution import BORDER, distances
from sparserm_cli.models.head.reward_head import RewardHead
from sparserm_cli.models.lm.language_model import LanguageModel
from sparserm_cli.models.lm.pooling import Pooled, pooled_vectors
from sparserm_cli.store.artifacts.reward import RewardConfig, RewardFiles, read_reward, reward_folder

if TYPE_CHECKING:
    from sparserm_cli.models.lm.devices import DType

Prompt = str | Sequence[Message | Mapping[str, Any]]

UNGUARDED = Guards()

PROBE_TOLERANCE = 0.25
"""Largest difference of the probe's score from that of the fit, in standard deviations of training scores."""


class Rewards(NamedTuple):
    """What a reward model says of some responses.

    Fields:
        scores: one a response, NaN where it abstains.
        ood: how far each lies from the training responses; 99 % of these are below 1.
        tokens: for each response one reward a token, adding up to its score; None where it abstains.
        method: how token rewards were found, only `exact` ones add up exactly; None if not asked for.
    """

    scores: Float32[np.ndarray, " n"]
    ood: Float32[np.ndarray, " n"]
    tokens: tuple[Float32[np.ndarray, " _"] | None, ...] = ()
    method: Method | None = None

    def split(self, counts: Sequence[int]) -> Iterator["Rewards"]:
        """Yield the rewards of the first `counts[0]` responses, of the next `counts[1]`, and so on."""
        start = 0
        for count in counts:
            at = slice(start, start + count)
            yield Rewards(self.scores[at], self.ood[at], self.tokens[at], self.method)
            start += count


class RewardModel:
    """Scores responses to prompts.

    Args:
        path: the folder it was loaded from.
        files: what lies there.
        lm: the lower blocks of the language model.
        template: how prompts and responses become token ids.

    Attributes:
        config: everything recorded about the fit.
        head: pooled vectors to scores.
        normalised_head: the same in standard deviations of the training responses' scores, from their mean.

    """

    def __init__(
        self, path: PurePath, files: RewardFiles, lm: LanguageModel, template: PromptTemplate
    ) -> None:
        self.path, self.files, self.lm, self.template = path, files, lm, template
        self.config: RewardConfig = files.config
        self.head = RewardHead.from_files(files)
        self.normalised_head = self.head.normalised(self.config.score_mean, self.config.score_std)

    @classmethod
    def load(
        cls,
        path: str | PurePath,
        *,
        model: str | None = None,
        device: str = "auto",
        offline: bool = False,
        check: bool = True,
    ) -> Self:
        """Load a reward model and the language model it was fitted on.

        Args:
            path: a `reward/` folder, or a run directory that holds one.
            model: where the language model lies on this machine, if not where the reward model says.
            device: torch device; auto is cuda where there is one, else cpu.
            offline: never call the hub.
            check: score the response that the fit recorded, and refuse a model that scores it otherwise.

        Raises:
            IncompatibleError: model, tokenizer, template or score are not those of the fit; names both.
            CorruptStoreError: a file of the folder is missing, cut or changed.
            ResourceError: the device is not there.

        """
        path = reward_folder(place(path), place(path))
        files = read_reward(path)
        config = files.config
        identity = resolve_model(model or config.model, offline=offline)
        hint = "give --model with the model of the fit, or fit again"
        _check(path, "model revision", config.model_revision, identity.revision, hint)
        tokenizer = load_tokenizer(identity)
        hint = "restore the tokenizer of the fit"
        _check(path, "tokenizer", config.tokenizer, tokenizer_digest(tokenizer), hint)
        source = "raw" if config.template == "raw" else None
        template = PromptTemplate(tokenizer, source, model=identity.name, text=config.template_text)
        hint = "restore the template of the fit"
        _check(path, "template", config.template_digest, template.digest, hint)
        lm = LanguageModel.load(
            identity, layers=config.layers, dtype=cast("DType", config.dtype), device=device
        )
        loaded = cls(path, files, lm, template)
        if check:
            loaded.check_probe()
        return loaded

    @property
    def max_length(self) -> int:
        """Most tokens of a prompt and one response together."""
        return self.config.max_length or self.lm.max_positions

    def probe(self) -> EncodedExample | None:
        """Return the response whose score the fit recorded; None where it recorded none (format 1)."""
        if not self.config.probe:
            return None
        prompt, response = (np.array(self.config.probe[part], np.uint32) for part in ("prompt", "response"))
        encoded = EncodedResponse(prompt, response, straddled=False, characters=0, truncated=False)
        return EncodedExample(Example(1, None, "", ("",), (UNLABELLED,), None, {}), "", (encoded,))

    def check_probe(self) -> dict[str, float]:
        """Score the response whose score the fit recorded, and return both scores; none for format 1.

        Raises:
            IncompatibleError: they differ by more than rounding could explain.

        """
        row = self.probe()
        if row is None:
            return {}
        expected, found = float(self.config.probe["score"]), float(self.rewards([row]).scores[0])
        if not abs(found - expected) <= PROBE_TOLERANCE * self.config.score_std:
            raise IncompatibleError(
                f"{self.path}: the score of its own probe",
                f"{expected:.4f}",
                f"{found:.4f}",
                "this machine computes something else than the fit did: try --device cpu, or fit here",
            )
        return {"expected": expected, "found": found}

    def control(self, name: str) -> RewardHead:
        """Return the head of one of the controls that were fitted beside the reward model."""
        return RewardHead.from_files(self.files, name)

    def score(
        self,
        prompts: Sequence[Prompt],
        responses: Sequence[str],
        *,
        batch_tokens: int | None = None,
        deterministic: bool = False,
    ) -> Float32[np.ndarray, " n"]:
        """Return one score a response; higher is better, only differences mean something.

        Args:
            prompts: one a response: a user's text, or the conversation so far as messages.
            responses: the assistant's answers.
            batch_tokens: most tokens in one forward pass; None chooses by the machine.
            deterministic: compute each prompt alone, so that scores are equal to the bit in any company.

        Raises:
            ValueError: not as many prompts as responses.
            BadInputError: a response has no token or is longer than the model takes.

        """
        rows = self.encode(prompts, responses)
        if not rows:
            return np.empty(0, np.float32)
        vectors = self.pooled(rows, batch_tokens=batch_tokens, deterministic=deterministic)
        return self.scores_of(vectors, deterministic=deterministic)

    def encode(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[EncodedExample]:
        """Return one tokenised row a response.

        Raises:
            ValueError: not as many prompts as responses.
            BadInputError: a response has no token or is longer than the model takes.

        """
        rows = self.tokenise(prompts, responses)
        for row in rows:
            self.check_length(row)
        return rows

    def tokenise(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[EncodedExample]:
        """Return one tokenised row a response, whatever its length.

        Raises:
            ValueError: not as many prompts as responses.
            IncompatibleError: the template refuses a prompt.

        """
        if len(prompts) != len(responses):
            raise ValueError(f"{len(prompts)} prompts for {len(responses)} responses")
        examples = [
            _example(row, prompt, response)
            for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True), start=1)
        ]
        return self.template.encode(examples)

    def check_length(self, row: EncodedExample) -> None:
        """Refuse a tokenised row that the model cannot score.

        Raises:
            BadInputError: its response has no token, or is longer with its prompt than the model takes.

        """
        response = row.responses[0]
        tokens, where = len(response.prompt_ids) + len(response.response_ids), f"response {row.example.row}"
        if not len(response.response_ids):
            raise BadInputError(where, "a response with tokens", "none", "leave it out")
        if tokens > self.max_length:
            expected = f"at most {self.max_length:,} tokens"
            raise BadInputError(where, expected, f"{tokens:,}", "shorten it")

    def rewards(
        self,
        rows: Sequence[EncodedExample],
        guards: Guards = UNGUARDED,
        *,
        tokens: bool = False,
        batch_tokens: int | None = None,
        deterministic: bool = False,
    ) -> Rewards:
        """Return the guarded scores of tokenised rows, one a response, and how far each is from the fit's.

        Args:
            rows: at least one; none may have a response without tokens.
            guards: normalising, clipping, abstaining.
            tokens: give each response token a reward as well. Exact for linear heads: where the mean is
                pooled, a token has its own share of it; where the last token is, that token has the whole
                score. For a hidden layer they are integrated gradients, which are approximate.
            batch_tokens: most tokens in one forward pass; None chooses by the machine.
            deterministic: compute each prompt alone, so that rewards are equal to the bit in any company.

        Raises:
            ResourceError: the memory does not suffice for a response.

        """
        head = self.normalised_head if guards.normalize else self.head
        how: dict[str, Any] = {"batch_tokens": batch_tokens, "deterministic": deterministic}
        if tokens:
            found = attributions(self.lm, head, rows, **how)
            scores = np.array([one.score for one in found], np.float32)
            x = np.stack([one.projections for one in found]).astype(np.float32)
            shares = [one.tokens.astype(np.float32) for one in found]
            return self._guarded(guards, scores, x, shares, found[0].method)
        vectors = self.pooled(rows, **how)
        scores = self.scores_of(vectors, deterministic=deterministic, head=head)
        return self._guarded(guards, scores, head.standardised(vectors).cpu().numpy())

    def _guarded(
        self,
        guards: Guards,
        scores: Float32[np.ndarray, " n"],
        x: Float32[np.ndarray, "n p"],
        shares: Sequence[Float32[np.ndarray, " _"]] = (),
        method: Method | None = None,
    ) -> Rewards:
        """Clip, and abstain where a response is too far from those of the fit."""
        ood = distances(x, self.files.whitening) / self.config.distance[BORDER]
        kept = np.ones(len(x), bool) if guards.abstain is None else ood <= guards.abstain
        bound = np.inf if guards.clip is None else guards.clip
        clipped = np.clip(scores, -bound, bound)
        tokens = tuple(
            # Where the score was clipped its parts shrink with it, so that they still add up.
            (share if new == old else share * (new / old)) if keep else None
            for share, old, new, keep in zip(shares, scores, clipped, kept, strict=False)
        )
        return Rewards(np.where(kept, clipped, np.float32(np.nan)), ood.astype(np.float32), tokens, method)

    def scores_of(
        self, pooled: Pooled, *, deterministic: bool = False, head: RewardHead | None = None
    ) -> Float32[np.ndarray, " n"]:
        """Return the scores of pooled vectors, one by one if not a bit may depend on the others."""
        head = head or self.head
        count = len(pooled[self.lm.layers[0]]["mean"])
        if not deterministic or not count:
            return head(pooled)
        alone = (
            {
                layer: {name: one[row : row + 1] for name, one in found.items()}
                for layer, found in pooled.items()
            }
            for row in range(count)
        )
        return np.concatenate([head(one) for one in alone])

    def pooled(
        self, rows: Sequence[EncodedExample], *, batch_tokens: int | None = None, deterministic: bool = False
    ) -> Pooled:
        """Return the pooled residual vectors of tokenised rows, a vector a response."""
        return pooled_vectors(self.lm, rows, batch_tokens=batch_tokens, deterministic=deterministic)


def _example(row: int, prompt: Prompt, response: str) -> Example:
    """Return prompt and response as the data room has them, whatever the messages are made of.

    Raises:
        BadInputError: one of them is no text.

    """
    try:
        asked, answer = normalise_prompt(prompt), plain_text(response, "response")
    except RowError as error:
        where, hint = f"response {row}, {error.field}", "leave it out"
        raise BadInputError(where, error.expected, error.found, hint) from None
    return Example(row, None, asked, (answer,), (UNLABELLED,), None, {})


def _check(path: Any, field: str, expected: str, found: str, hint: str) -> None:
    """Refuse what is not as it was at the fit."""
    if expected != found:
        raise IncompatibleError(f"{path}: {field}", expected, found, hint)
