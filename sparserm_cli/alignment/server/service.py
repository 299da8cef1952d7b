"""The service behind the routes, without HTTP: the reward model, its batches, and the server's state."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from sparserm_cli.alignment.server.batches import Batcher, FullError, Kind
from sparserm_cli.alignment.server.metrics import Metrics
from sparserm_cli.config import ServeConfig
from sparserm_cli.data.rendering.row_tokenizer import TokenizedExample
from sparserm_cli.data.rendering.templated_text import ConversationText
from sparserm_cli.errors import CorruptStoreError, IncompatibleError
from sparserm_cli.models.explanation import direction_rows
from sparserm_cli.models.lm.prompt_cache import PromptCache
from sparserm_cli.models.reward_model import RewardModel, Rewards


class Service:
    """The work behind the routes.

    Args:
        config: the options.

    """

    def __init__(self, config: ServeConfig) -> None:
        self.config = config
        self.state = "loading"
        """The state of the server: loading, ready or draining."""
        self.metrics = Metrics(
            {
                "waiting_tokens": ("Tokens waiting.", lambda: self.waiting),
                "prompt_cache_bytes": ("Bytes of prompts kept.", lambda: self._cache.bytes),
                "prompt_cache_hits": ("Prompts found there.", lambda: self._cache.hits),
                "prompt_cache_misses": ("Prompts not found there.", lambda: self._cache.misses),
            }
        )
        self._cache = PromptCache(config.prompt_cache << 20)
        self.working = 0
        """The number of requests with a body that are waiting or being computed."""
        self.probe: dict[str, float] = {}
        """The score of the probe at the fit and on this machine."""
        self._model: RewardModel | None = None
        self._batches: Batcher | None = None
        self._directions: list[dict[str, Any]] | None = None

    def start(self, model: RewardModel) -> None:
        """Accept requests from now on if the model scores its probe as it did at the fit.

        Raises:
            IncompatibleError: the model scores its probe differently.

        """
        self.probe = model.check_probe()  # which also warms up the model
        model.lm.prompt_cache = self._cache if self.config.prompt_cache else None
        self.texts = ConversationText(model.template)
        self._model = model
        self._directions = listed_directions(model)
        self._batches = Batcher(
            self._compute, most_waiting=self.config.max_waiting, observe=self.metrics.computed
        )
        self.state = "ready"

    def drain(self) -> bool:
        """Accept no more requests, wait until all are answered, and return whether that was done in time."""
        self.state = "draining"
        until = time.monotonic() + self.config.drain_seconds
        while self.working and time.monotonic() < until:
            time.sleep(0.02)
        if self._batches and not self.working:
            self._batches.close()
        return not self.working

    @property
    def model(self) -> RewardModel:
        """The reward model, which is available once the state is ready."""
        if self._model is None:
            raise RuntimeError("asked before the model was loaded")
        return self._model

    @property
    def waiting(self) -> int:
        """The number of tokens that wait for the model."""
        return self._batches.waiting if self._batches else 0

    @property
    def closed(self) -> str:
        """The reason why no requests are accepted now; "" if they are."""
        return "" if self.state == "ready" else f"the server is {self.state}; try again"

    async def rewards(self, rows: Sequence[TokenizedExample], kind: Kind) -> Rewards:
        """Queue rows and wait for their rewards; if the caller is cancelled, its rows leave the queue.

        Raises:
            FullError: the queue is full.
            TimeoutError: the rewards took too long.

        """
        if self._batches is None:
            raise FullError
        result = self._batches.submit(rows, kind)
        async with asyncio.timeout(self.config.timeout):
            return await asyncio.wrap_future(result)

    def info(self) -> dict[str, Any]:
        """Return the description of the reward model."""
        config, lm = self.model.config, self.model.lm
        return {
            "model": self.name,
            "digest": config.lineage.digest,
            "language_model": config.model,
            "language_model_revision": config.model_revision,
            "hook_names": list(config.hook_names),
            "sae": config.selection.get("sae"),
            "pool": config.pool,
            "head": config.head,
            "loss": config.loss,
            "max_length": self.model.max_length,
            "dtype": lm.dtype,
            "device": lm.device,
            "score_mean": config.score_mean,
            "score_std": config.score_std,
            "normalize": self.config.normalize,
            "clip": self.config.clip,
            "abstain": self.config.abstain,
            "per_request": ["normalize", "clip", "abstain"],
            "unscorable": self.config.unscorable,
            "strict": self.config.strict,
            "max_inputs": self.config.max_inputs,
            "probe": self.probe,
            "part_groups": {
                group.name: group.directions for group in self.model.part_groups(self.config.part_groups)
            },
            "directions": self._directions,
        }

    @property
    def name(self) -> str:
        """The name of the reward model: that of its language model and the beginning of its digest."""
        config = self.model.config
        return f"{config.model.rstrip('/').rpartition('/')[2]}-reward-{config.lineage.digest[:8]}"

    def _compute(self, rows: Sequence[TokenizedExample], kind: Kind) -> Rewards:
        batch_tokens = self.config.batch_tokens
        groups = self.model.part_groups(self.config.part_groups) if kind.parts else ()
        return self.model.rewards(
            rows, kind.guards, tokens=kind.by_token, groups=groups, batch_tokens=batch_tokens
        )


def listed_directions(model: RewardModel) -> list[dict[str, Any]] | None:
    """Return layer, latent, side and name of each direction; None if the run's `directions/` is damaged.

    Scores need nothing of that folder, so its damage does not keep the server from starting.
    """
    try:
        rows = direction_rows(model.path, model.config, model.head)
    except (CorruptStoreError, IncompatibleError):
        return None
    shown = ("layer", "feature", "side", "name")
    return [{name: row[name] for name in shown} for row in rows if row["pool"] == model.head.poolings[0]]
