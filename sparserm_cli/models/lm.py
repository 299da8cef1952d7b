"""The frozen language model: the blocks up to the highest layer asked for, and nothing above them.

Axes: rows (sequences of a batch), seq (token positions), d_in (width of the residual stream).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sparserm_cli.errors import IncompatibleError, ResourceError, UsageError
from sparserm_cli.models.identity import ModelIdentity
from sparserm_cli.models.quiet import quiet_transformers

DType = Literal["auto", "float32", "bfloat16"]


class LanguageModel:
    """Blocks 0 to max(layers) of a causal language model, without its final norm's effect and its LM head.

    Attributes:
        identity: which model this is.
        layers: blocks after which the residual stream is taken, counted from 0, ascending.
        d_in: width of the residual stream.
        dtype: `float32` or `bfloat16`, what the model computes in.
        dtype_reason: why `auto` chose it, or that the user did.
        device: torch device, such as `cpu` or `cuda:0`.
        model_type: transformers' name of the architecture, such as `llama`.
        max_positions: longest sequence the model's positions reach, in tokens.
        supports_tree: whether a prompt is computed once for all its responses.
        tree_reason: why, or why not.

    """

    def __init__(
        self, backbone: nn.Module, identity: ModelIdentity, layers: Sequence[int], dtype_reason: str
    ) -> None:
        config = backbone.config
        self.backbone, self.identity, self.layers = backbone, identity, tuple(sorted(set(layers)))
        self.d_in: int = config.hidden_size
        self.dtype = str(next(backbone.parameters()).dtype).removeprefix("torch.")
        self.dtype_reason = dtype_reason
        self.device = str(next(backbone.parameters()).device)
        self.model_type: str = config.model_type
        self.max_positions: int = getattr(config, "max_position_embeddings", None) or 2**31
        self.supports_tree, self.tree_reason = False, "not built yet"
        self.blocks = _blocks(backbone, max(layers) + 1)

    @classmethod
    def load(
        cls, identity: ModelIdentity, *, layers: Sequence[int], dtype: DType = "auto", device: str = "auto"
    ) -> Self:
        """Load the blocks that `layers` need; weights above them are not read from disk.

        Raises:
            UsageError: a layer that the model does not have, or an unknown device.
            ResourceError: a device that this machine does not have.
            IncompatibleError: an architecture that is no causal language model.

        """
        place = choose_device(device)
        number, reason = choose_dtype(dtype, place)
        with quiet_transformers():
            backbone = _load_backbone(identity, sorted(set(layers)), number)
        return cls(backbone.to(place).eval().requires_grad_(requires_grad=False), identity, layers, reason)

    @property
    def hook_names(self) -> tuple[str, ...]:
        """SAELens' names of the captured places, in the order of `layers`."""
        return tuple(f"blocks.{layer}.hook_resid_post" for layer in self.layers)

    @torch.inference_mode()
    def forward_rows(
        self, input_ids: Int[Tensor, "rows seq"], attention_mask: Int[Tensor, "rows seq"]
    ) -> dict[int, Float[Tensor, "rows seq d_in"]]:
        """Run one padded batch, a sequence a row, as transformers does it.

        Args:
            input_ids: token ids, padded on the right with any id.
            attention_mask: 1 for tokens, 0 for padding.

        Returns:
            The residual stream after each of `layers`, before any final norm, in the model's dtype.

        """
        with self.residuals() as taken:
            self.backbone(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
        return taken

    @contextmanager
    def residuals(self) -> Iterator[dict[int, Tensor]]:
        """Collect the output of each wanted block while the backbone runs inside the block."""
        taken: dict[int, Tensor] = {}

        def keeper(layer: int) -> Any:
            def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
                taken[layer] = output[0] if isinstance(output, tuple) else output

            return keep

        handles = [self.blocks[layer].register_forward_hook(keeper(layer)) for layer in self.layers]
        try:
            yield taken
        finally:
            for handle in handles:
                handle.remove()


def choose_device(device: str) -> str:
    """Return the torch device that `auto` means here, or check the one asked for.

    Raises:
        UsageError: no device torch knows.
        ResourceError: CUDA (or another accelerator) is asked for and not there.

    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise UsageError(
            "--device", "auto, cpu, cuda or cuda:N", repr(device), "correct the option"
        ) from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise ResourceError(
            f"--device {device}", "a CUDA device", "none on this machine", "use --device auto or cpu"
        )
    if kind == "cuda" and (torch.device(device).index or 0) >= torch.cuda.device_count():
        found = f"{torch.cuda.device_count()} of them"
        raise ResourceError(
            f"--device {device}", "a CUDA device with that number", found, "use a lower number"
        )
    return device


def choose_dtype(dtype: DType, device: str) -> tuple[torch.dtype, str]:
    """Return the type to compute in and why: bfloat16 where the hardware multiplies it faster, else float32.

    The capability is asked for, not timed, so that the same machine always gives the same answer. float16 is
    never chosen: residual streams overflow it.
    """
    if dtype != "auto":
        return getattr(torch, dtype), "asked for"
    if torch.device(device).type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.bfloat16, "this GPU multiplies bfloat16 faster than float32"
        return torch.float32, "this GPU has no bfloat16 arithmetic"
    able = torch.cpu.get_capabilities()
    found = [name for name in ("amx_bf16", "avx512_bf16", "sve_bf16", "bf16") if able.get(name)]
    if found:
        return torch.bfloat16, f"this processor multiplies bfloat16 faster than float32 ({found[0]})"
    return torch.float32, "this processor has no bfloat16 arithmetic"


def _load_backbone(identity: ModelIdentity, layers: Sequence[int], dtype: torch.dtype) -> nn.Module:
    from transformers import AutoConfig, AutoModel

    where = {"local_files_only": True, "trust_remote_code": identity.remote_code}
    config = AutoConfig.from_pretrained(str(identity.folder), **where)
    count: int = config.num_hidden_layers
    if layers[0] < 0 or layers[-1] >= count:
        found = ", ".join(map(str, layers))
        raise UsageError(
            "--layer", f"layers from 0 to {count - 1} for {identity.name}", found, "correct the option"
        )
    if getattr(config, "is_encoder_decoder", False):
        raise IncompatibleError(
            identity.name, "a causal language model", config.model_type, "choose another model"
        )
    truncate_config(config, layers[-1] + 1)
    return AutoModel.from_pretrained(
        str(identity.folder), config=config, dtype=dtype, use_safetensors=not identity.pickles, **where
    )


def truncate_config(config: Any, count: int) -> None:
    """Make `config` that of a model with only the first `count` blocks, per-block lists included."""
    before: int = config.num_hidden_layers
    per_block = [
        key for key, value in vars(config).items() if isinstance(value, list) and len(value) == before
    ]
    config.num_hidden_layers = count
    for key in per_block:
        setattr(config, key, getattr(config, key)[:count])


def _blocks(backbone: nn.Module, count: int) -> nn.ModuleList:
    """Find the list of blocks: the outermost module list of that length."""
    return next(part for part in backbone.modules() if isinstance(part, nn.ModuleList) and len(part) == count)


def describe(lm: LanguageModel) -> Mapping[str, str | int]:
    """Return the facts about a loaded model that a run records."""
    return {
        "model": lm.identity.name,
        "revision": lm.identity.revision,
        "dtype": lm.dtype,
        "device": lm.device,
    }
