"""Score responses while a policy writes them, from the policy's own forward passes.

A reward model reads the lower blocks of a language model. Where the policy is that model, these blocks run
anyway: hooks take the residual stream, keep a running mean and the last token per candidate, and the head
scores them. A token is scored once it has been passed through the policy, one step after it was chosen.

Axes: rows (candidates of a batch), seq (token positions of one pass), d_in (width of the residual stream).
"""

from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor, nn

from sparserm_cli.errors import IncompatibleError
from sparserm_cli.locations import parse_location
from sparserm_cli.models.head.reward_head import RewardHead
from sparserm_cli.models.lm.backbone import blocks_of
from sparserm_cli.models.row_scorer import PROBE_TOLERANCE
from sparserm_cli.store.artifacts.reward import RewardFiles, read_reward, reward_folder


class PolicyReward:
    """The running scores of the rows that a policy generates.

    Used as a context: the hooks are there while it lasts.

    Args:
        policy: a causal language model of transformers.
        head: the head of a reward model that was fitted on the policy's lower blocks.

    Raises:
        IncompatibleError: the policy lacks a block, or its residual stream has another width.

    """

    def __init__(self, policy: Any, head: RewardHead) -> None:
        decoder = policy.get_decoder()
        self._blocks, width = blocks_of(decoder), decoder.config.hidden_size
        widths = {rows.shape[1] for rows in head.arrays.directions.values()} or {width}
        if max(head.layers) >= len(self._blocks) or widths != {width}:
            expected = f"a reward of at most {len(self._blocks)} blocks of width {width}"
            found = f"layers {', '.join(map(str, head.layers))} of width {max(widths)}"
            raise IncompatibleError(
                "the policy", expected, found, "take the model that the reward was fitted on"
            )
        self.policy, self.head = policy, head
        self._handles: list[Any] = []
        self.begin(0, 0)

    @classmethod
    def load(cls, path: str | PurePath, policy: Any, *, check: bool = True) -> Self:
        """Load the head of a reward model for a policy; no second language model is loaded.

        Args:
            path: a `reward/` folder, or a run directory that holds one.
            policy: a causal language model of transformers.
            check: score the response that the fit recorded, and refuse a policy that scores it differently.
                A policy that was trained further is refused too, since its blocks are not those of the fit.

        Raises:
            IncompatibleError: the policy is not the language model of the fit.
            CorruptStoreError: the reward model is damaged.

        """
        files = read_reward(reward_folder(parse_location(path)))
        loaded = cls(policy, RewardHead.from_files(files))
        if check:
            loaded.check_probe(files)
        return loaded

    @torch.inference_mode()
    def check_probe(self, files: RewardFiles) -> None:
        """Score the response whose score the fit recorded by the policy.

        Raises:
            IncompatibleError: the scores differ by more than rounding could explain.

        """
        probe = files.config.probe
        if not probe:
            return
        with self:
            self.begin(len(probe["prompt"]), 1)
            self.policy(torch.tensor([[*probe["prompt"], *probe["response"]]], device=self.policy.device))
        expected, found = float(probe["score"]), float(self.scores()[0])
        if not abs(found - expected) <= PROBE_TOLERANCE * files.config.score_std:
            where, hint = (
                "the policy's score of the reward's probe",
                "take the model that the reward was fitted on",
            )
            raise IncompatibleError(where, f"{expected:.4f}", f"{found:.4f}", hint)

    def begin(self, prompt: int, rows: int) -> None:
        """Begin with new candidates: the next `prompt` positions are no part of the responses."""
        self._rows = rows
        self._prompt_left = dict.fromkeys(self.head.layers, prompt)
        self._sums: dict[int, Tensor] = {}
        self._lasts: dict[int, Tensor] = {}
        self._counts = np.zeros(rows, np.int64)
        self._growing = np.ones(rows, bool)

    @property
    def counts(self) -> np.ndarray:
        """Number of tokens of each row that its score covers."""
        return self._counts.copy()

    def finish(self, rows: Sequence[int]) -> None:
        """Let some rows grow no further: what is passed for them from now on is padding."""
        self._growing[list(rows)] = False

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with some rows only, in this order, as the policy's batch and its cache do."""
        chosen = list(rows)
        self._counts, self._growing = self._counts[chosen], self._growing[chosen]
        self._rows = len(chosen)
        for kept in (self._sums, self._lasts):
            for layer in kept:
                kept[layer] = kept[layer][chosen]

    def scores(self) -> Float32[np.ndarray, " rows"]:
        """Return the score of each row's tokens so far; NaN for a row without any."""
        if not self._sums:
            return np.full(self._rows, np.nan, np.float32)
        counts = np.maximum(self._counts, 1).astype(np.float32)[:, None]
        pooled = {
            layer: {"mean": total.cpu().numpy() / counts, "last": self._lasts[layer].cpu().numpy()}
            for layer, total in self._sums.items()
        }
        return np.where(self._counts > 0, self.head(pooled), np.float32(np.nan))

    def __enter__(self) -> Self:
        self._handles = [
            self._blocks[layer].register_forward_hook(self._reader(layer)) for layer in self.head.layers
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _reader(self, layer: int) -> Callable[..., None]:
        """Return a forward hook that adds a block's output to the running sums."""

        def read(_block: nn.Module, _inputs: Any, output: Any) -> None:
            self._add(layer, output[0] if isinstance(output, tuple) else output)

        return read

    def _add(self, layer: int, residuals: Tensor) -> None:
        """Take in the positions of one pass; those of the prompt come first and are left out."""
        skipped = min(self._prompt_left[layer], residuals.shape[1])
        self._prompt_left[layer] -= skipped
        taken = residuals[:, skipped:].detach().float()
        if not taken.shape[1]:
            return
        growing = torch.from_numpy(self._growing)[:, None].to(taken.device)
        added = taken.sum(dim=1) * growing
        self._sums[layer] = self._sums[layer] + added if layer in self._sums else added
        self._lasts[layer] = torch.where(growing, taken[:, -1], self._lasts.get(layer, taken[:, -1]))
        if layer == max(self.head.layers):
            self._counts += taken.shape[1] * self._growing
