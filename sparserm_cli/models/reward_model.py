"""A fitted reward model ready to score: the lower blocks of the language model, the directions and the head.

Reads: a `reward/` folder and the language model it names. No SAE and no sae_lens are needed.
Memory: the model's lower blocks and one batch. Axes: n (responses).
"""

from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Self, cast, overload

import numpy as np
from jaxtyping import Float32

from sparserm_cli.config import Guards
from sparserm_cli.data.chat_template import EncodedExample, EncodedResponse, PromptTemplate, tokenizer_digest
from sparserm_cli.data.example import UNLABELLED, Example
from sparserm_cli.errors import BadInputError, IncompatibleError, UsageError
from sparserm_cli.locations import parse_location
from sparserm_cli.models.checkpoints.hub_snapshot import hub_folder
from sparserm_cli.models.checkpoints.resolve import HUB_NAME, load_tokenizer, resolve_model
from sparserm_cli.models.explanation import Explainer, Explanation, direction_rows
from sparserm_cli.models.head.attribution import attributions
from sparserm_cli.models.head.out_of_distribution import distances
from sparserm_cli.models.head.reward_head import RewardHead
from sparserm_cli.models.lm.language_model import LanguageModel
from sparserm_cli.models.lm.pooling import Pooled, pooled_vectors
from sparserm_cli.models.reward_inputs import Prompt as Prompt
from sparserm_cli.models.reward_inputs import examples_of, rows_of, with_columns
from sparserm_cli.models.rewards import Rewards as Rewards
from sparserm_cli.store.artifacts.reward import RewardConfig, RewardFiles, read_reward, reward_folder
from sparserm_cli.store.artifacts.reward_checks import BORDER

if TYPE_CHECKING:
    from sparserm_cli.models.lm.devices import DType

UNGUARDED = Guards()
WINDOW_ROWS = 512
"""Rows computed together by `score`; responses to one prompt share it within a window."""
_PUBLISHED = ("config.json", "*.safetensors", "README.md")

PROBE_TOLERANCE = 0.25
"""Largest difference of the probe's score from that of the fit, in standard deviations of training scores."""


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
        self._load_options: dict[str, Any] = {}
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
        path = reward_folder(parse_location(path))
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
        loaded = cls(parse_location(path), files, lm, template)
        loaded._load_options = {"model": model, "device": device, "offline": offline, "check": check}
        if check:
            loaded.check_probe()
        return loaded

    @classmethod
    def from_pretrained(cls, name: str | PurePath, **options: Any) -> Self:
        """Load a reward model from a folder or from the Hugging Face hub.

        Args:
            name: a `reward/` folder, a run directory with one, the URL of either on an object store, or a
                hub id like `owner/name@revision`, whose repository holds the files of a `reward/` folder.
            options: `model`, `device`, `offline` and `check` as of `load`.

        Raises:
            IncompatibleError: there is none, or no access to it; otherwise as `load`.
            CorruptStoreError, ResourceError: as `load`.
            TemporaryError: the hub does not answer and the cache has no copy.

        """
        path = parse_location(name)
        hub = HUB_NAME.fullmatch(str(name)) if isinstance(path, Path) and not path.exists() else None
        if hub is not None and "/" in hub[1]:
            offline = bool(options.get("offline"))
            path = hub_folder(hub[1], hub[2] or "main", _PUBLISHED, offline=offline, progress=None)
        return cls.load(reward_folder(path), **options)

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

    @overload
    def score(
        self,
        prompts: Prompt | Iterable[Prompt],
        responses: str | Iterable[str],
        *,
        batch_tokens: int | None = None,
        deterministic: bool = False,
    ) -> Float32[np.ndarray, " n"]: ...

    @overload
    def score(self, *, dataset: Any, batch_tokens: int | None = None, deterministic: bool = False) -> Any: ...

    def score(
        self,
        prompts: Any = None,
        responses: Any = None,
        *,
        dataset: Any = None,
        batch_tokens: int | None = None,
        deterministic: bool = False,
    ) -> Any:
        """Score responses; higher is better, only differences mean something.

        Args:
            prompts: one for all responses, or one per response. A prompt is a user's text, or the
                conversation so far as messages.
            responses: the assistant's answer, or several.
            dataset: instead of the two: a `datasets.Dataset`, a `pandas.DataFrame` or a list of rows, of any
                shape that `sparserm score` takes.
            batch_tokens: most tokens in one forward pass; None chooses by the machine.
            deterministic: compute each prompt alone, so that scores are equal to the bit in any company.

        Returns:
            an array of one score per response, float32, shape (responses,); of one response as well. For a
            data set the data set with a column `score` more, or `score_chosen` and `score_rejected`.

        Raises:
            UsageError: a text stands where a list is due, or the other way round.
            ValueError: not as many prompts as responses.
            BadInputError: a prompt or response is neither text nor messages, has no token or is longer than
                the model takes, or a row of the data set cannot be used.

        """
        how: dict[str, Any] = {"batch_tokens": batch_tokens, "deterministic": deterministic}
        if dataset is None:
            return self._scores(examples_of(prompts, responses), **how)
        if prompts is not None or responses is not None:
            raise UsageError("score", "prompts and responses, or a dataset", "both", "give one of them")
        rows = rows_of(dataset)
        return with_columns(dataset, rows.columns(self._scores(rows.examples, **how)))

    __call__ = score

    def _scores(self, examples: Sequence[Example], **how: Any) -> Float32[np.ndarray, " n"]:
        """Score all responses of some rows, a window of them at a time."""
        found = [np.empty(0, np.float32)]
        for start in range(0, len(examples), WINDOW_ROWS):
            rows = self._tokenised(examples[start : start + WINDOW_ROWS])
            vectors = self.pooled(rows, **how)
            found.append(self.scores_of(vectors, deterministic=how["deterministic"]))
        return np.concatenate(found)

    def encode(
        self, prompts: Prompt | Iterable[Prompt], responses: str | Iterable[str]
    ) -> list[EncodedExample]:
        """Return one tokenised row per response; arguments as of `score`.

        Raises:
            UsageError: a text stands where a list is due, or the other way round.
            ValueError: not as many prompts as responses.
            BadInputError: one is neither text nor messages, has no token or is longer than the model takes.

        """
        return self._tokenised(examples_of(prompts, responses))

    def tokenise(
        self, prompts: Prompt | Iterable[Prompt], responses: str | Iterable[str]
    ) -> list[EncodedExample]:
        """Return one tokenised row per response, whatever its length; arguments as of `score`.

        Raises:
            UsageError: a text stands where a list is due, or the other way round.
            ValueError: not as many prompts as responses.
            BadInputError: one of them is neither text nor messages.
            IncompatibleError: the template refuses a prompt.

        """
        return self.template.encode(examples_of(prompts, responses))

    def _tokenised(self, examples: Sequence[Example]) -> list[EncodedExample]:
        """Tokenise rows and check the length of every response."""
        rows = self.template.encode(examples)
        for row in rows:
            self.check_length(row)
        return rows

    def check_length(self, row: EncodedExample) -> None:
        """Refuse a tokenised row that the model cannot score.

        Raises:
            BadInputError: a response has no token, or is longer with its prompt than the model takes.

        """
        where = f"response {row.example.row}" if len(row.responses) == 1 else f"row {row.example.row}"
        for response in row.responses:
            tokens = len(response.prompt_ids) + len(response.response_ids)
            if not len(response.response_ids):
                raise BadInputError(where, "a response with tokens", "none", "leave it out")
            if tokens > self.max_length:
                expected = f"at most {self.max_length:,} tokens"
                raise BadInputError(where, expected, f"{tokens:,}", "shorten it")

    def explain(self, prompt: Prompt, response: str) -> Explanation:
        """Divide the score of one response among directions and tokens.

        `pandas.DataFrame(list(explanation.directions))` and the same of `tokens` make tables of the parts.

        Args:
            prompt: a user's text, or the conversation so far as messages.
            response: the assistant's answer.

        Raises:
            BadInputError: one is neither text nor messages, has no token or is longer than the model takes.
            CorruptStoreError: the directions beside the reward model are damaged.
            ResourceError: the memory does not suffice.

        """
        rows = self.encode(prompt, [response])
        return self.explained(rows[0])

    def explained(self, row: EncodedExample, number: int = 1) -> Explanation:
        """Divide the score of a tokenised row with one response, which is `number` in the row of its file."""
        return Explainer(self.path, self.config, self.head, self.lm).explain(row, number)

    def directions(self) -> Any:
        """Return what the head looks at as a `pandas.DataFrame` of one row per projection.

        Columns: `layer`, `pool` (mean or last), `direction` (its row among those of the layer), `feature`
        (latent of the SAE, missing for a random direction), `side` (1 preferred, -1 dispreferred),
        `rate_chosen` and `rate_rejected` (share of tokens or responses on which the latent fires; missing
        without the run's `directions/`), `mean` and `std` over the training responses, and `effect`: half the
        difference in score between one standard deviation above the mean and one below, the others at their
        means. It is the weight of a linear head.
        """
        import pandas as pd

        found = pd.DataFrame(direction_rows(self.path, self.config, self.head))
        return found.astype({"feature": "Int64", "rate_chosen": float, "rate_rejected": float})

    def __repr__(self) -> str:
        config, count = self.config, len(self.head.arrays.mean)
        return (
            f"RewardModel({str(self.path)!r}: {config.head} head on {count} projections, {config.pool} over "
            f"layer {', '.join(map(str, config.layers))} of {config.model}, on {self.lm.device})"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by name: another process loads the folder again and checks that it is the same."""
        return _reloaded, (type(self), str(self.path), self.config.lineage.digest, self._load_options)

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
            shares = tuple(one.tokens.astype(np.float32) for one in found)
            return Rewards(scores, self._ood(x), shares, found[0].method).guarded(guards)
        vectors = self.pooled(rows, **how)
        scores = self.scores_of(vectors, deterministic=deterministic, head=head)
        return Rewards(scores, self._ood(head.standardised(vectors).cpu().numpy())).guarded(guards)

    def _ood(self, x: Float32[np.ndarray, "n p"]) -> Float32[np.ndarray, " n"]:
        """Return how far standardised projections lie from those of the training responses."""
        ood = distances(x, self.files.whitening) / self.config.distance[BORDER]
        return np.asarray(ood, np.float32)

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


def _reloaded(kind: type[RewardModel], path: str, digest: str, options: dict[str, Any]) -> RewardModel:
    """Load the reward model that was pickled.

    Raises:
        IncompatibleError: another one has taken its place.

    """
    model = kind.load(path, **options)
    _check(path, "digest", digest, model.config.lineage.digest, "pickle the reward model again")
    return model


def _check(path: Any, field: str, expected: str, found: str, hint: str) -> None:
    """Refuse what is not as it was at the fit."""
    if expected != found:
        raise IncompatibleError(f"{path}: {field}", expected, found, hint)
