"""Load a language model up to a layer, on the device and in the type that this machine is good at."""

import shutil
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from sparserm_cli.errors import IncompatibleError, UsageError
from sparserm_cli.models.checkpoints.quiet import first_line, quiet_transformers
from sparserm_cli.models.checkpoints.resolve import ModelIdentity
from sparserm_cli.models.lm.devices import placing


def load_backbone(identity: ModelIdentity, layers: Sequence[int], dtype: torch.dtype, device: str) -> Any:
    """Load blocks 0 to max(layers), ready to run; weights above them and the LM head are not read.

    Raises:
        UsageError: a layer that the model does not have, or a file of devices that cannot be read.
        IncompatibleError: the model is no causal language model, or its weights do not fit its config.

    """
    shared = placing(device)
    with quiet_transformers():
        from transformers import AutoConfig, AutoModel

        where = {"local_files_only": True, "trust_remote_code": identity.remote_code}
        try:
            config = AutoConfig.from_pretrained(str(identity.folder), **where)
            text = config.get_text_config(decoder=True)
            _check(identity, text, layers)
            truncate(text, max(layers) + 1)
            model = AutoModel.from_pretrained(
                str(identity.folder),
                config=config,
                dtype=dtype,
                use_safetensors=not identity.pickles,
                **where,
                **shared,
            )
        except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
            reason = first_line(error)
            raise IncompatibleError(
                identity.name, "a model that transformers loads", reason, "check it"
            ) from error
    model = model if text is config else model.get_decoder()  # leave a vision tower behind
    if shared:
        weakref.finalize(model, shutil.rmtree, shared["offload_folder"], ignore_errors=True)
    else:
        model = model.to(device)
    return model.eval().requires_grad_(requires_grad=False)


def block_parameters(identity: ModelIdentity, layers: Sequence[int]) -> int:
    """Return how many weights blocks 0 to max(layers) have; none is read.

    Raises:
        IncompatibleError: the model's configuration is not one that transformers knows.

    """
    with quiet_transformers(), torch.device("meta"):
        from transformers import AutoConfig, AutoModel

        try:
            config = AutoConfig.from_pretrained(
                str(identity.folder), local_files_only=True, trust_remote_code=identity.remote_code
            ).get_text_config(decoder=True)
            truncate(config, max(layers) + 1)
            model = AutoModel.from_config(config, trust_remote_code=identity.remote_code)
        except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
            reason = first_line(error)
            raise IncompatibleError(
                identity.name, "a model that transformers knows", reason, "check it"
            ) from error
    return sum(one.numel() for one in blocks_of(model).parameters())


def truncate(config: Any, count: int) -> None:
    """Make `config` that of a model with only the first `count` blocks, per-block lists included."""
    before: int = config.num_hidden_layers
    per_block = [
        key for key, value in vars(config).items() if isinstance(value, list) and len(value) == before
    ]
    config.num_hidden_layers = count
    for key in per_block:
        setattr(config, key, getattr(config, key)[:count])


def blocks_of(backbone: Any) -> nn.ModuleList:
    """Find the list of blocks: the outermost module list with one entry a block."""
    count = backbone.config.num_hidden_layers
    return next(part for part in backbone.modules() if isinstance(part, nn.ModuleList) and len(part) == count)


def _check(identity: ModelIdentity, config: Any, layers: Sequence[int]) -> None:
    if getattr(config, "is_encoder_decoder", False) or not hasattr(config, "num_hidden_layers"):
        raise IncompatibleError(
            identity.name, "a causal language model", config.model_type, "choose another model"
        )
    if getattr(config, "num_kv_shared_layers", None):  # counted from the top, which truncating takes away
        found = f"{config.num_kv_shared_layers} blocks that use those of others"
        raise IncompatibleError(identity.name, "blocks with keys of their own", found, "choose another model")
    last = config.num_hidden_layers - 1
    if not layers or min(layers) < 0 or max(layers) > last:
        found = ", ".join(map(str, layers)) or "none"
        raise UsageError(
            "--layer", f"layers from 0 to {last} for {identity.name}", found, "correct the option"
        )
