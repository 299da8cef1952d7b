"""Score tokenised rows with a reward head on the lower blocks of a language model.

Memory: the model's lower blocks and one batch. Axes: n (responses), p (projections).
"""

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
from jaxtyping import Float32

from sparserm_cli.config import Guards
from sparserm_cli.data.chat_template import EncodedExample, EncodedResponse, PromptTemplate
from sparserm_cli.data.example import UNLABELLED, Example
from sparserm_cli.errors import BadInputError, IncompatibleError
from sparserm_cli.models.head.attribution import attributions
from sparserm_cli.models.head.out_of_distribution import distances
from sparserm_cli.models.head.reward_head import RewardHead
from sparserm_cli.models.lm.language_model import LanguageModel
from sparserm_cli.models.lm.pooling import Pooled, pooled_vectors
from sparserm_cli.models.rewards import Rewards
from sparserm_cli.store.artifacts.reward import RewardConfig, RewardFiles
from sparserm_cli.store.artifacts.reward_checks import BORDER

UNGUARDED = Guards()

PROBE_TOLERANCE = 0.25
"""Largest difference of the probe's score from that of the fit, in standard deviations of training scores."""


class RowScorer:
    """Scores tokenised rows; the part of a `RewardModel` that knows nothing of texts and folders.

    Args:
        path: folder that the reward model was loaded from.
        files: content of that folder.
        lm: lower blocks of the language model.
        template: turns prompts and responses into token ids.

    """

    def __init__(
        self, path: PurePath, files: RewardFiles, lm: LanguageModel, template: PromptTemplate
    ) -> None:
        self.path, self.files, self.lm, self.template = path, files, lm, template
        self.config: RewardConfig = files.config
        self.head = RewardHead.from_files(files)
        self.normalised_head = self.head.normalised(self.config.score_mean, self.config.score_std)

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
