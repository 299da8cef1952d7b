"""Score tokenised rows with a reward head on the lower blocks of a language model.

Memory: the model's lower blocks and one batch. Axes: n (responses), p (projections).
"""

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32

from sparserm_cli.config import ScoreLimits
from sparserm_cli.data.chat_template import PromptTemplate
from sparserm_cli.data.example import UNLABELLED, Example
from sparserm_cli.data.rendering.row_tokenizer import TokenizedExample, TokenizedResponse
from sparserm_cli.errors import BadInputError, IncompatibleError
from sparserm_cli.models.head.attribution import (
    PartGroup,
    attributions,
    method_of,
    part_groups,
    parts_of,
)
from sparserm_cli.models.head.out_of_distribution import distances
from sparserm_cli.models.head.reward_head import RewardHead
from sparserm_cli.models.lm.language_model import LanguageModel
from sparserm_cli.models.lm.pooling import Pooled, pooled_vectors
from sparserm_cli.models.rewards import Rewards
from sparserm_cli.store.artifacts.reward import RewardConfig, RewardFiles
from sparserm_cli.store.artifacts.reward_checks import BORDER

UNGUARDED = ScoreLimits()

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
        self._groups: dict[int, tuple[PartGroup, ...]] = {}
        self.head = RewardHead.from_files(files)
        self.normalised_head = self.head.normalised(self.config.score_mean, self.config.score_std)

    @property
    def max_length(self) -> int:
        """Largest number of tokens of a prompt together with one response."""
        return self.config.max_length or self.lm.max_positions

    def probe(self) -> TokenizedExample | None:
        """Return the response whose score the fit recorded; None where it recorded none (format 1)."""
        if not self.config.probe:
            return None
        prompt, response = (np.array(self.config.probe[part], np.uint32) for part in ("prompt", "response"))
        tokenized = TokenizedResponse(prompt, response, straddled=False, characters=0, truncated=False)
        return TokenizedExample(Example(1, None, "", ("",), (UNLABELLED,), None, {}), "", (tokenized,))

    def check_probe(self) -> dict[str, float]:
        """Score the response whose score the fit recorded, and return both scores; none for format 1.

        Raises:
            IncompatibleError: the scores differ by more than rounding could explain.

        """
        row = self.probe()
        if row is None:
            return {}
        expected, computed = float(self.config.probe["score"]), float(self.rewards([row]).scores[0])
        if not abs(computed - expected) <= PROBE_TOLERANCE * self.config.score_std:
            raise IncompatibleError(
                f"{self.path}: the score of its own probe",
                f"{expected:.4f}",
                f"{computed:.4f}",
                "this machine computes something else than the fit did: try --device cpu, or fit here",
            )
        return {"expected": expected, "found": computed}

    def control(self, name: str) -> RewardHead:
        """Return the head of one of the controls that were fitted beside the reward model."""
        return RewardHead.from_files(self.files, name)

    def check_length(self, row: TokenizedExample) -> None:
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
        rows: Sequence[TokenizedExample],
        guards: ScoreLimits = UNGUARDED,
        *,
        tokens: bool = False,
        groups: Sequence[PartGroup] = (),
        batch_tokens: int | None = None,
        deterministic: bool = False,
    ) -> Rewards:
        """Return the guarded score of each response, and its distance from the training responses.

        Args:
            rows: at least one; none may have a response without tokens.
            guards: options for normalising, clipping and abstaining.
            tokens: compute a reward per response token as well. Token rewards are exact for linear heads:
                with mean pooling each token has its share of the score, with last pooling the last token
                has all of it. With a hidden layer they are integrated gradients, which are approximate.
            groups: groups of directions, of `part_groups`, whose parts of each score are computed as well.
            batch_tokens: most tokens in one forward pass; None chooses by the machine.
            deterministic: compute each prompt alone, so that no bit of a reward depends on the batch.

        Raises:
            ResourceError: memory does not suffice for a response.

        """
        head = self.normalised_head if guards.normalize else self.head
        how: dict[str, Any] = {"batch_tokens": batch_tokens, "deterministic": deterministic}
        if tokens:
            found = attributions(self.lm, head, rows, **how)
            scores = np.array([each.score for each in found], np.float32)
            x = torch.tensor(np.stack([each.projections for each in found]), dtype=torch.float32)
            shares = tuple(each.tokens.astype(np.float32) for each in found)
        else:
            vectors = self.pooled(rows, **how)
            scores = self.scores_of(vectors, deterministic=deterministic, head=head)
            x, shares = head.standardised(vectors), ()
        parts = parts_of(head, x.to(head.device)).by_group(groups) if groups else ()
        method = method_of(head) if tokens or groups else None
        projections = x.cpu().numpy()
        return Rewards(scores, self.ood(projections), shares, method, parts, projections).guarded(guards)

    def part_groups(self, count: int) -> tuple[PartGroup, ...]:
        """Return the directions of the head in a number of groups; 0 makes each a group of its own."""
        if count not in self._groups:
            head = RewardHead.from_files(self.files)
            self._groups[count] = part_groups(head, self.config.selection, count)
        return self._groups[count]

    def ood(self, x: Float32[np.ndarray, "n p"]) -> Float32[np.ndarray, " n"]:
        """Return the distance of standardised projections from the training responses; 1 is the border."""
        ood = distances(x, self.files.whitening) / self.config.distance[BORDER]
        return np.asarray(ood, np.float32)

    def scores_of(
        self, pooled: Pooled, *, deterministic: bool = False, head: RewardHead | None = None
    ) -> Float32[np.ndarray, " n"]:
        """Return the scores of pooled vectors, each computed alone if `deterministic`."""
        head = head or self.head
        count = len(pooled[self.lm.layers[0]]["mean"])
        if not deterministic or not count:
            return head(pooled)
        alone = (
            {
                layer: {name: vectors[row : row + 1] for name, vectors in by_pooling.items()}
                for layer, by_pooling in pooled.items()
            }
            for row in range(count)
        )
        return np.concatenate([head(response) for response in alone])

    def pooled(
        self,
        rows: Sequence[TokenizedExample],
        *,
        batch_tokens: int | None = None,
        deterministic: bool = False,
    ) -> Pooled:
        """Return the pooled residual vectors of tokenised rows, one vector per response."""
        return pooled_vectors(self.lm, rows, batch_tokens=batch_tokens, deterministic=deterministic)
