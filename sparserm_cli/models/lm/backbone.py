"""Load a language model up to a layer, on the device and in the number type that suit this machine."""

import pickle
import shutil
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from sparserm_cli.errors import IncompatibleError, UsageError
from sparserm_cli.formatting import first_line
from sparserm_cli.models.checkpoints.config_shape import read_config
from sparserm_cli.models.checkpoints.library_noise import silence_transformers
from sparserm_cli.models.checkpoints.resolve import ModelIdentity
from sparserm_cli.models.checkpoints.tensor_names import Loaded, Renaming, fit_names, refuse_wrong_names
from sparserm_cli.models.lm.adapters import merge_adapter
from sparserm_cli.models.lm.devices import placing

_FAULTS = (OSError, ValueError, LookupError, RuntimeError, ImportError, TypeError, pickle.UnpicklingError)
"""Errors that transformers raises for files that it cannot use."""


def load_backbone(
    identity: ModelIdentity, layers: Sequence[int], dtype: torch.dtype, device: str
) -> tuple[Any, str]:
    """Load blocks 0 to max(layers), ready to run; weights above them and the LM head are not read.

    Returns:
        The blocks, and a sentence on how names of the checkpoint were changed to fit; empty if none was.

    Raises:
        UsageError: a layer that the model does not have, or a file of devices that cannot be read.
        IncompatibleError: the model is no causal language model, or its weights do not fit its config.

    """
    shared = placing(device)
    renaming = check_checkpoint(identity, layers)
    loaded = _load(identity, layers, dtype=dtype, key_mapping=renaming.mapping or None, **shared)
    # Quantised weights can only be checked by reading them; for others `check_checkpoint` has found any
    # fault.
    refuse_wrong_names(identity.name, loaded)
    model: Any = loaded.decoder
    note = renaming.note
    if identity.adapter is not None:
        if shared:
            hint = "merge the adapter into its base, or give one device"
            raise IncompatibleError(
                "--device", f"one device, since {identity.name} is an adapter", device, hint
            )
        merge_adapter(identity.name, identity.adapter, model)
        note = "; ".join(filter(None, (note, f"{identity.name}: an adapter, added to {identity.base}")))
    if shared:
        weakref.finalize(model, shutil.rmtree, shared["offload_folder"], ignore_errors=True)
    else:
        model = model.to(device)
    return model.eval().requires_grad_(requires_grad=False), note


def check_checkpoint(identity: ModelIdentity, layers: Sequence[int]) -> Renaming:
    """Check by names and shapes that a checkpoint has blocks 0 to max(layers), without reading weights.

    Raises:
        UsageError: a layer that the model does not have.
        IncompatibleError: the model is no causal language model, or its weights do not fit its config.

    """
    config = read_config(identity)
    if getattr(config, "quantization_config", None):
        return Renaming({}, "")
    text = config.get_text_config(decoder=True)
    tied = bool(getattr(text, "tie_word_embeddings", False))

    def attempt(mapping: dict[str, str]) -> Loaded:
        how: dict[str, Any] = {"device_map": "meta", "ignore_mismatched_sizes": True}
        return _load(identity, layers, dtype=torch.float32, key_mapping=mapping or None, **how)

    return fit_names(identity.name, attempt, tied=tied)


def _load(identity: ModelIdentity, layers: Sequence[int], **options: Any) -> Loaded:
    """Load the blocks with these options of transformers, and return which weights it did not find."""
    config = read_config(identity)
    with silence_transformers():
        from transformers import AutoModel

        try:
            text = config.get_text_config(decoder=True)
            _check(identity, text, layers)
            truncate(text, max(layers) + 1)
            model, report = AutoModel.from_pretrained(
                str(identity.folder),
                config=config,
                output_loading_info=True,
                use_safetensors=not identity.pickles,
                local_files_only=True,
                trust_remote_code=identity.remote_code,
                **options,
            )
        except _FAULTS as error:
            raise _not_loaded(identity, error) from error
    decoder = model if text is config else model.get_decoder()  # a vision tower is left out
    sizes = {name: f"{tuple(has)}, not {tuple(wants)}" for name, has, wants in report["mismatched_keys"]}
    names = report["missing_keys"], report["unexpected_keys"]
    return Loaded(model, decoder, blocks_of(decoder), *names, sizes)


def _not_loaded(identity: ModelIdentity, error: Exception) -> IncompatibleError:
    """Return the error that says in one line why transformers does not load a model."""
    return IncompatibleError(identity.name, "a model that transformers loads", first_line(error), "check it")


def block_parameters(identity: ModelIdentity, layers: Sequence[int]) -> int:
    """Return the number of weights of blocks 0 to max(layers), without reading them.

    Raises:
        IncompatibleError: the model's configuration is not one that transformers knows.

    """
    config = read_config(identity).get_text_config(decoder=True)
    with silence_transformers(), torch.device("meta"):
        from transformers import AutoModel

        try:
            truncate(config, max(layers) + 1)
            model = AutoModel.from_config(config, trust_remote_code=identity.remote_code)
        except _FAULTS as error:
            raise _not_loaded(identity, error) from error
    return sum(weight.numel() for weight in blocks_of(model).parameters())


def truncate(config: Any, count: int) -> None:
    """Change `config`, including its lists of one entry per block, to describe the first `count` blocks."""
    before: int = config.num_hidden_layers
    per_block = [
        key for key, value in vars(config).items() if isinstance(value, list) and len(value) == before
    ]
    config.num_hidden_layers = count
    for key in per_block:
        setattr(config, key, getattr(config, key)[:count])


def blocks_of(backbone: Any) -> nn.ModuleList:
    """Return the list of blocks: the outermost module list with one entry per block."""
    count = backbone.config.num_hidden_layers
    return next(part for part in backbone.modules() if isinstance(part, nn.ModuleList) and len(part) == count)


def _check(identity: ModelIdentity, config: Any, layers: Sequence[int]) -> None:
    if getattr(config, "is_encoder_decoder", False) or not hasattr(config, "num_hidden_layers"):
        raise IncompatibleError(
            identity.name, "a causal language model", config.model_type, "choose another model"
        )
    # these are counted from the top of the model, which truncation removes
    if getattr(config, "num_kv_shared_layers", None):
        found = f"{config.num_kv_shared_layers} blocks that use those of others"
        raise IncompatibleError(identity.name, "blocks with keys of their own", found, "choose another model")
    last = config.num_hidden_layers - 1
    if not layers or min(layers) < 0 or max(layers) > last:
        found = ", ".join(map(str, layers)) or "none"
        raise UsageError(
            "--layer", f"layers from 0 to {last} for {identity.name}", found, "correct the option"
        )
