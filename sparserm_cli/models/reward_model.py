"""A fitted reward model ready to score: the lower blocks of the language model, the directions and the head.

Reads: a `reward/` folder and the language model it names. No SAE and no sae_lens are needed.
Memory: the model's lower blocks and one batch. Axes: n (responses).
"""

from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import Any, Self, overload

import numpy as np
from jaxtyping import Float32

from sparserm_cli.config.shared import PART_GROUPS
from sparserm_cli.data.chat_template import PromptTemplate
from sparserm_cli.data.example import Example
from sparserm_cli.data.rendering.row_tokenizer import TokenizedExample
from sparserm_cli.errors import UsageError
from sparserm_cli.locations import parse_location
from sparserm_cli.models.explanation import Explainer, Explanation, direction_rows
from sparserm_cli.models.lm.language_model import LanguageModel
from sparserm_cli.models.reward_inputs import Prompt as Prompt
from sparserm_cli.models.reward_inputs import examples_of, rows_of, with_columns
from sparserm_cli.models.reward_loading import load_parts, published_folder, refuse_other
from sparserm_cli.models.rewards import Rewards as Rewards
from sparserm_cli.models.row_scorer import PROBE_TOLERANCE as PROBE_TOLERANCE
from sparserm_cli.models.row_scorer import UNGUARDED as UNGUARDED
from sparserm_cli.models.row_scorer import RowScorer
from sparserm_cli.store.artifacts.reward import RewardFiles, reward_folder

WINDOW_ROWS = 512
"""Number of rows scored together; within a window each prompt is computed once for all its responses."""


class RewardModel(RowScorer):
    """Scores responses to prompts.

    Args:
        path: folder that the reward model was loaded from.
        files: content of that folder.
        lm: lower blocks of the language model.
        template: turns prompts and responses into token ids.

    Attributes:
        config: everything that is recorded about the fit.
        head: maps pooled vectors to scores.
        normalised_head: maps pooled vectors to scores in standard deviations from the mean training response.

    """

    def __init__(
        self, path: PurePath, files: RewardFiles, lm: LanguageModel, template: PromptTemplate
    ) -> None:
        super().__init__(path, files, lm, template)
        self._load_options: dict[str, Any] = {}

    @classmethod
    def load(
        cls,
        path: str | PurePath,
        *,
        model: str | None = None,
        group: str | None = None,
        device: str = "auto",
        offline: bool = False,
        check: bool = True,
    ) -> Self:
        """Load a reward model and the language model it was fitted on.

        Args:
            path: a `reward/` folder, or a run directory that holds one.
            model: location of the language model on this machine, if it is not where the reward model says.
            group: group of pairs whose head scores; None takes the head of all pairs.
            device: torch device; auto is cuda where there is one, else cpu.
            offline: never call the hub.
            check: score the response that the fit recorded, and refuse a model that scores it differently.

        Raises:
            IncompatibleError: model, tokenizer, template or score differ from the fit; the error names both.
            CorruptStoreError: a file of the folder is missing, cut or changed.
            ResourceError: the device is missing.

        """
        folder = parse_location(reward_folder(parse_location(path)))
        files, lm, template = load_parts(folder, model=model, device=device, offline=offline)
        loaded = cls(folder, files.of_group(group), lm, template)
        loaded._load_options = {"model": model, "group": group, "device": device, "offline": offline}
        loaded._load_options["check"] = check
        if check:
            loaded.check_probe()
        return loaded

    @classmethod
    def from_pretrained(cls, name: str | PurePath, **options: Any) -> Self:
        """Load a reward model from a folder or from the Hugging Face hub.

        Args:
            name: a `reward/` folder, a run directory with one, the URL of either on an object store, or a
                hub id like `owner/name@revision`, whose repository holds the files of a `reward/` folder.
            options: `model`, `group`, `device`, `offline` and `check` as of `load`.

        Raises:
            IncompatibleError: there is no such model, or no access to it; otherwise as `load`.
            CorruptStoreError, ResourceError: as `load`.
            TemporaryError: the hub does not answer and the cache has no copy.

        """
        return cls.load(published_folder(name, offline=bool(options.get("offline"))), **options)

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
        """Score responses; higher is better, and only differences between scores have a meaning.

        Args:
            prompts: one for all responses, or one per response. A prompt is a user's text, or the
                conversation so far as messages.
            responses: the assistant's answer, or several.
            dataset: instead of prompts and responses, a `datasets.Dataset`, a `pandas.DataFrame` or a list of
                rows, in any shape that `sparserm score` takes.
            batch_tokens: most tokens in one forward pass; None chooses by the machine.
            deterministic: compute each prompt alone, so that no bit of a score depends on the batch.

        Returns:
            an array of one score per response, float32, shape (responses,), also for a single response. For a
            data set, the data set with an added column `score`, or `score_chosen` and `score_rejected`.

        Raises:
            UsageError: a text is given where a list is needed, or the other way round.
            ValueError: the numbers of prompts and responses differ.
            BadInputError: a prompt or response is neither text nor messages, has no token or is longer than
                the model takes, or a row of the data set cannot be used.

        """
        how: dict[str, Any] = {"batch_tokens": batch_tokens, "deterministic": deterministic}
        # 1. Prompts and responses are paired and scored as they stand.
        if dataset is None:
            return self._scores(examples_of(prompts, responses), **how)
        # 2. The rows of a data set are read like those of a file, and get their scores as columns.
        if prompts is not None or responses is not None:
            raise UsageError("score", "prompts and responses, or a dataset", "both", "give one of them")
        rows = rows_of(dataset)
        return with_columns(dataset, rows.columns(self._scores(rows.examples, **how)))

    __call__ = score

    def _scores(self, examples: Sequence[Example], **how: Any) -> Float32[np.ndarray, " n"]:
        """Score all responses of some rows, one window at a time."""
        scores = [np.empty(0, np.float32)]
        for start in range(0, len(examples), WINDOW_ROWS):
            rows = self._tokenized(examples[start : start + WINDOW_ROWS])
            vectors = self.pooled(rows, **how)
            scores.append(self.scores_of(vectors, deterministic=how["deterministic"]))
        return np.concatenate(scores)

    def tokenize(
        self, prompts: Prompt | Iterable[Prompt], responses: str | Iterable[str], *, any_length: bool = False
    ) -> list[TokenizedExample]:
        """Return one tokenised row per response.

        Args:
            prompts: as for `score`.
            responses: as for `score`.
            any_length: also return rows that have no token or are longer than the model takes.

        Raises:
            UsageError: a text is given where a list is needed, or the other way round.
            ValueError: the numbers of prompts and responses differ.
            BadInputError: a prompt or response is neither text nor messages, has no token or is too long.
            IncompatibleError: the template refuses a prompt.

        """
        return self._tokenized(examples_of(prompts, responses), any_length=any_length)

    def encode(
        self, prompts: Prompt | Iterable[Prompt], responses: str | Iterable[str]
    ) -> list[TokenizedExample]:
        """Return the same as `tokenize`, which is the new name of this method."""
        return self.tokenize(prompts, responses)

    def _tokenized(self, examples: Sequence[Example], *, any_length: bool = False) -> list[TokenizedExample]:
        """Tokenise rows and check the length of every response, unless any length is allowed."""
        rows = self.template.tokenize(examples)
        if not any_length:
            for row in rows:
                self.check_length(row)
        return rows

    def explain(self, prompt: Prompt, response: str) -> Explanation:
        """Divide the score of one response among directions and tokens.

        `pandas.DataFrame(list(explanation.directions))` and the same of `tokens` make tables of the parts.

        Args:
            prompt: a user's text, or the conversation so far as messages.
            response: the assistant's answer.

        Raises:
            BadInputError: a prompt or response is neither text nor messages, has no token or is too long.
            CorruptStoreError: the directions beside the reward model are damaged.
            ResourceError: memory does not suffice.

        """
        rows = self.tokenize(prompt, [response])
        return self.explained(rows[0])

    def explained(self, row: TokenizedExample, number: int = 1, groups: int = PART_GROUPS) -> Explanation:
        """Divide the score of a tokenised row with one response, number `number` of its row in the file.

        Args:
            row: the row.
            number: number of the response in its row, from 1.
            groups: number of groups of similar directions; 0 makes each direction a group of its own.

        """
        return Explainer(self.path, self.config, self.head, self.lm, groups).explain(row, number)

    def directions(self) -> Any:
        """Return the projections that the head uses as a `pandas.DataFrame` with one row per projection.

        Columns: `layer`, `pool` (mean or last), `direction` (its row among those of the layer), `feature`
        (latent of the SAE, missing for a random direction), `side` (1 preferred, -1 dispreferred),
        `rate_chosen` and `rate_rejected` (share of tokens or responses on which the latent fires; missing
        without the run's `directions/`), `name` (made and tested by `sparserm describe`; missing without
        one), `mean` and `std` over the training responses, and `effect`: half the difference in score between
        one standard deviation above the mean and one below, the others at their means. It is the weight of a
        linear head.
        """
        import pandas as pd

        table = pd.DataFrame(direction_rows(self.path, self.config, self.head))
        return table.astype({"feature": "Int64", "rate_chosen": float, "rate_rejected": float})

    def __repr__(self) -> str:
        config, count = self.config, len(self.head.arrays.mean)
        return (
            f"RewardModel({str(self.path)!r}: {config.head} head on {count} projections, {config.pool} over "
            f"layer {', '.join(map(str, config.layers))} of {config.model}, on {self.lm.device})"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by name: another process loads the folder again and checks that it is the same."""
        return _reloaded, (type(self), str(self.path), self.config.lineage.digest, self._load_options)


def _reloaded(kind: type[RewardModel], path: str, digest: str, options: dict[str, Any]) -> RewardModel:
    """Load the reward model that was pickled.

    Raises:
        IncompatibleError: another reward model is in its folder now.

    """
    model = kind.load(path, **options)
    refuse_other(path, "digest", digest, model.config.lineage.digest, "pickle the reward model again")
    return model
