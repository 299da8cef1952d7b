"""Devices and number types of a model, and the placement of one that no single device can hold."""

import json
import tempfile
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from sparserm_cli.errors import ResourceError, UsageError

DType = Literal["auto", "float32", "bfloat16"]


BFLOAT16_UNITS = ("amx_bf16", "avx512_bf16", "sve_bf16", "bf16")
"""Processor features, as torch names them, that multiply bfloat16 faster than float32."""


def choose_device(device: str) -> str:
    """Return the torch device that `auto` means on this machine, or check the requested one.

    A model that is shared among devices takes its input on the device of `auto`, where SAEs lie too.

    Raises:
        UsageError: torch knows no such device.
        ResourceError: the requested CUDA device is missing.

    """
    if device == "auto" or is_spread(device):
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        requested = torch.device(device)
    except RuntimeError as error:
        known = "auto, cpu, cuda, cuda:N, balanced or a .json file"
        raise UsageError("--device", known, repr(device), "correct the option") from error
    if requested.type == "cuda" and (requested.index or 0) >= torch.cuda.device_count():
        found = f"{torch.cuda.device_count()} CUDA devices on this machine"
        raise ResourceError(f"--device {device}", "that device", found, "use --device auto or cpu")
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
    units = [unit for unit in BFLOAT16_UNITS if able.get(unit)]
    if units:
        return torch.bfloat16, f"this processor multiplies bfloat16 faster than float32 ({units[0]})"
    return torch.float32, "this processor has no fast bfloat16 arithmetic"


def device_name(device: str) -> str:
    """Return what a GPU calls itself; other devices are called as torch calls them."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


SPREAD = ("balanced", "balanced_low_0", "sequential")
"""Ways of sharing the blocks among all GPUs, then main memory, then the disk, as transformers names them."""


def is_spread(device: str) -> bool:
    """Tell whether a `--device` is a way of sharing a model, not one device."""
    return device in SPREAD or device.endswith(".json")


def placing(device: str) -> dict[str, Any]:
    """Return what `from_pretrained` is told to share a model as `device` says; nothing for one device.

    Args:
        device: one device, one of `SPREAD`, or a JSON file: module names, such as `embed_tokens` or
            `layers.0`, to a GPU's number, `cpu` or `disk`.

    Raises:
        UsageError: the file is not such an object.

    """
    if not is_spread(device):
        return {}
    places = device if device in SPREAD else _read_map(Path(device))
    return {"device_map": places, "offload_folder": tempfile.mkdtemp(prefix="sparserm-offload-")}


def _read_map(path: Path) -> dict[str, str | int]:
    """Read which module lies where."""
    try:
        places = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        found = f"{path}, which cannot be read as JSON ({' '.join(str(error).split())})"
        raise UsageError("--device", "a JSON object of modules", found, "repair the file") from None
    if not isinstance(places, dict) or not all(type(target) in (str, int) for target in places.values()):
        found = f"{path}, which holds something else"
        raise UsageError("--device", "module names with a device each", found, "repair the file")
    return places


def devices_of(model: nn.Module) -> list[str]:
    """Return the devices that a model computes on, the one that takes its input first.

    Weights that wait in main memory or on the disk have none; a model that has only such runs on the CPU.
    """
    devices = dict.fromkeys(str(weight.device) for weight in model.parameters() if not weight.is_meta)
    return list(devices) or ["cpu"]
