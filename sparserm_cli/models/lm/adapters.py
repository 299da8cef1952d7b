"""Merge an adapter in PEFT's form into the lower blocks of the model that it was trained on."""

import re
from pathlib import Path
from typing import Any

import torch

from sparserm_cli.errors import IncompatibleError
from sparserm_cli.formatting import first_line
from sparserm_cli.models.checkpoints.library_noise import silence_transformers

SHOWN = 3
"""Largest number of tensor names that an error shows."""


def merge_adapter(name: str, folder: Path, backbone: Any) -> None:
    """Add an adapter's weights to those of a backbone, in place.

    The backbone is put into a causal language model without weights of its own, because an adapter's names
    begin with that model. Tensors of blocks above the backbone are left out.

    Args:
        name: name that the user gave for the adapter.
        folder: folder of its files.
        backbone: the lower blocks, on the CPU.

    Raises:
        IncompatibleError: the adapter does not fit, is of a kind that cannot be merged, or has tensors
            that belong to no module of the backbone.

    """
    with silence_transformers():
        from peft import PeftConfig, PeftModel

        shell = _shell(backbone)
        try:
            settings = PeftConfig.from_pretrained(str(folder))
            settings.inference_mode = True
            adapted: Any = PeftModel(shell, settings)
            load_result = adapted.load_adapter(str(folder), "default", torch_device="cpu")
            wrong = [*_missing(load_result.missing_keys), *_left_over(load_result.unexpected_keys, backbone)]
            if not wrong:
                adapted.merge_and_unload()
        except Exception as error:  # each kind of adapter in PEFT raises errors of its own
            hint = "merge it into its base with PEFT, and give the merged model"
            expected = "an adapter that can be merged into its base"
            # torch names the sizes in the second line of its message
            reason = str(error).replace(":\n\t", ": ")
            raise IncompatibleError(name, expected, first_line(ValueError(reason)), hint) from error
    if wrong:
        found_words = ", ".join(wrong[:SHOWN]) + (
            f" and {len(wrong) - SHOWN:,} more" if wrong[SHOWN:] else ""
        )
        hint = "give the adapter's own base model"
        raise IncompatibleError(name, "an adapter that fits its base", found_words, hint)


def _shell(backbone: Any) -> Any:
    """Return the causal language model whose body is the backbone; its other modules hold no memory."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        shell: Any = AutoModelForCausalLM.from_config(backbone.config)
    setattr(shell, shell.base_model_prefix, backbone)
    return shell


def _missing(names: list[str]) -> list[str]:
    """List the adapter weights that the file lacks, without those of the LM head, which is not used."""
    return [f"no {name}" for name in sorted(names) if ".lm_head." not in name]


def _left_over(names: list[str], backbone: Any) -> list[str]:
    """List the tensors of computed blocks that belong to no module."""
    pattern = r"\.(?:layers|h|blocks|block)\.(\d+)\."
    numbers = ((name, re.search(pattern, name)) for name in sorted(names))
    count = backbone.config.num_hidden_layers
    return [f"unknown {name}" for name, match in numbers if match and int(match[1]) < count]
