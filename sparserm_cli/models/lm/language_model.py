"""The frozen language model: its blocks up to the highest requested layer, and nothing above them.

Axes: rows (sequences of a batch), seq (token positions), kept (tokens whose residuals are returned), d_in
(width of the residual stream).
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from threading import Lock
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sparserm_cli.models.checkpoints.library_noise import silence_transformers
from sparserm_cli.models.checkpoints.resolve import ModelIdentity
from sparserm_cli.models.lm.allocator import keep_freed_memory, limit_kernel_cache
from sparserm_cli.models.lm.backbone import blocks_of, load_backbone
from sparserm_cli.models.lm.devices import DType, choose_device, choose_dtype, devices_of, is_spread
from sparserm_cli.models.lm.prompt_cache import PromptCache
from sparserm_cli.models.lm.trie import Trie
from sparserm_cli.models.lm.trie_attention import (
    NAME,
    KeptLayout,
    KeysLayout,
    KeysTaken,
    Layout,
    register,
    send,
)
from sparserm_cli.models.lm.trie_trial import try_trie

__all__ = ["DType", "LanguageModel", "choose_device", "choose_dtype"]


class LanguageModel:
    """Blocks 0 to max(layers) of a causal language model, without its final norm and LM head.

    Attributes:
        identity: identity of the model.
        layers: blocks after which the residual stream is taken, counted from 0, ascending.
        d_in: width of the residual stream.
        dtype: number type in which the model computes, `float32` or `bfloat16`.
        dtype_reason: the reason for that type, such as that the user chose it.
        device: torch device that takes the input, such as `cpu` or `cuda:0`.
        model_type: transformers' name of the architecture, such as `llama`.
        vocabulary: number of rows of the embedding; token ids are below it.
        max_positions: longest sequence that the model's positions allow, in tokens.
        supports_tree: whether a prompt is computed once for all its responses.
        tree_reason: the reason why it is, or is not.
        names_note: how names of the checkpoint were changed to fit the model; empty if none was.
        runs_alone: whether sequences must not share a batch, because the longest one changes the others.
        prompt_cache: store of prompts for later responses; None at first, so each batch is computed by
            itself.

    """

    def __init__(
        self,
        backbone: Any,
        identity: ModelIdentity,
        layers: Sequence[int],
        dtype_reason: str,
        names_note: str = "",
    ) -> None:
        config, devices = backbone.config, devices_of(backbone)
        self.backbone, self.identity, self.layers = backbone, identity, tuple(sorted(set(layers)))
        self.blocks, self.names_note = blocks_of(backbone), names_note
        self.d_in: int = config.hidden_size
        self.vocabulary: int = backbone.get_input_embeddings().weight.shape[0]
        dtype = next(backbone.parameters()).dtype
        self.dtype, self.dtype_reason = str(dtype).removeprefix("torch."), dtype_reason
        self.device = devices[0]
        self.model_type: str = config.model_type
        self.max_positions: int = getattr(config, "max_position_embeddings", None) or 2**31
        self.prompt_cache: PromptCache | None = None
        self._lock = Lock()
        register()
        self.blocks[-1].forward = partial(_only_kept, self.blocks[-1].forward)
        self._plain = "eager" if getattr(config, "attn_logit_softcapping", None) else _attention_of(config)
        self.runs_alone = _depends_on_length(config)
        several = f"its blocks are on {len(devices)} devices"
        self.supports_tree, self.tree_reason = try_trie(self) if len(devices) == 1 else (False, several)

    @classmethod
    def load(
        cls, identity: ModelIdentity, *, layers: Sequence[int], dtype: DType = "auto", device: str = "auto"
    ) -> Self:
        """Load the blocks that `layers` need; weights above them are not read from disk.

        Args:
            identity: identity of the model.
            layers: blocks whose output is returned.
            dtype: number type to compute in.
            device: one torch device, `auto`, or a way of spreading blocks over several (`devices.placing`).

        Raises:
            UsageError: a layer that the model does not have, or an unknown device.
            ResourceError: a device that this machine does not have.
            IncompatibleError: an architecture that is no causal language model.

        """
        place = choose_device(device)
        number, reason = choose_dtype(dtype, place)
        if place == "cpu":
            keep_freed_memory()
            limit_kernel_cache()
        placed = device if is_spread(device) else place
        backbone, names_note = load_backbone(identity, layers, number, placed)
        return cls(backbone, identity, layers, reason, names_note)

    @property
    def hook_names(self) -> tuple[str, ...]:
        """SAELens' names of the captured points, in the order of `layers`."""
        return tuple(f"blocks.{layer}.hook_resid_post" for layer in self.layers)

    @torch.inference_mode()
    def forward_rows(
        self, input_ids: Int[Tensor, "rows seq"], attention_mask: Int[Tensor, "rows seq"]
    ) -> dict[int, Float[Tensor, "rows seq d_in"]]:
        """Run one padded batch with one sequence per row, as transformers does.

        Args:
            input_ids: token ids, padded on the right with any id.
            attention_mask: 1 for tokens, 0 for padding.

        Returns:
            The residual stream after each of `layers`, before any final norm, in the model's dtype.

        """
        return self._run(self._plain, input_ids=input_ids, attention_mask=attention_mask)

    @torch.inference_mode()
    def forward_trie(self, trie: Trie) -> dict[int, Float[Tensor, "kept d_in"]]:
        """Run one batch that is laid out as a trie, where every token stands once and there is no padding.

        Returns:
            The residual stream of the kept tokens after each of `layers`, before any final norm.

        """
        cache = self.prompt_cache
        known = cache.known(trie) if cache else None
        layout = Layout(trie, getattr(torch, self.dtype), self.device, known=known)
        layout.seen = {} if cache else None
        ids, positions = (
            send(array[layout.queries][None], self.device)
            for array in (layout.trie.ids, layout.trie.positions)
        )
        taken = self._run(NAME, input_ids=ids, position_ids=positions, layout=layout)
        if cache and layout.seen:
            cache.keep(trie, layout.seen)
        kept = {
            len(there): send(np.searchsorted(there, trie.kept), self.device)
            for there in (layout.queries, layout.last)
        }
        return {layer: x[0, kept[x.shape[1]]] for layer, x in taken.items()}

    def _run(self, attention: str, **inputs: Any) -> dict[int, Tensor]:
        """Run the backbone through the last requested block and return the output of each requested block.

        Threads take turns, since the choice of attention and the hooks belong to the whole model.
        """
        taken: dict[int, Tensor] = {}

        def keeper(layer: int) -> Callable[..., None]:
            def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
                taken[layer] = output[0] if isinstance(output, tuple) else output
                if layer == self.layers[-1]:
                    raise _ReachedError

            return keep

        with self._lock:
            if _attention_of(self.backbone.config) != attention:
                with silence_transformers():
                    self.backbone.set_attn_implementation(attention)
            handles = [self.blocks[layer].register_forward_hook(keeper(layer)) for layer in self.layers]
            try:
                with suppress(_ReachedError):
                    self.backbone(**inputs, use_cache=False)
            finally:
                for handle in handles:
                    handle.remove()
        return taken


def _attention_of(config: Any) -> str:
    """Return the name of the attention function that a model uses; transformers has no public way to ask."""
    return config._attn_implementation or "eager"  # noqa: SLF001


def _depends_on_length(config: Any) -> bool:
    """Return whether the longest sequence of a batch decides the rotary angles."""
    given = getattr(config, "rope_parameters", None) or {}
    kinds = [rope.get("rope_type") for rope in (given, *given.values()) if isinstance(rope, dict)]
    return bool({"dynamic", "longrope"}.intersection(kinds))


class _ReachedError(Exception):
    """Raised when the last requested block is done, because the final norm after it is not needed."""


def _only_kept(block: Callable[..., Any], hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Run a block for the kept tokens alone; of all other tokens it needs only keys and values."""
    whole: Layout | None = kwargs.get("layout")
    tokens = hidden.shape[1]
    if whole is None or len(whole.last) == tokens:
        return block(hidden, *args, **kwargs)

    def at(index: Tensor, value: Any) -> Any:
        if isinstance(value, Tensor) and value.ndim > 1 and value.shape[1] == tokens:
            return value[:, index]
        return type(value)(at(index, part) for part in value) if isinstance(value, tuple) else value

    def run(index: Tensor, layout: Layout) -> Any:
        picked = {name: at(index, value) for name, value in kwargs.items()} | {"layout": layout}
        return block(*(at(index, value) for value in (hidden, *args)), **picked)

    kept = np.searchsorted(whole.queries, whole.last)
    others = np.setdiff1d(np.arange(tokens), kept, assume_unique=True)
    try:
        run(send(others, whole.device), KeysLayout(whole.trie, whole.dtype, whole.device))
    except KeysTaken as stopped:
        layout = KeptLayout(whole, whole.queries[others], stopped.taken)
    return run(send(kept, whole.device), layout)
