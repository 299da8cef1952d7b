"""Choice of a model's device and number type, and placement of a model that fits on no single device."""

import hashlib
import json
import statistics
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from sparserm_cli.errors import CorruptStoreError, ResourceError, UsageError
from sparserm_cli.locations import cache_folder
from sparserm_cli.store.io.sealed_json import read_json, write_json_atomic

DType = Literal["auto", "float32", "bfloat16"]


MATRIX_UNIT = "amx_bf16"
"""Processor feature, by torch's name, with which bfloat16 is certainly faster."""
ENOUGH = 1.2
"""Speed of bfloat16 products, relative to float32 products, from which `auto` chooses bfloat16."""
_ROWS, _WIDTH, _ROUNDS = 256, 1024, 7
"""Sizes of the measured product, (rows, width) by (width, width), and the number of its repetitions."""


def choose_device(device: str) -> str:
    """Return the torch device that `auto` means on this machine, or check the requested one.

    A model that is spread over devices takes its input on the device of `auto`; SAEs are placed there too.

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

    On a processor without a matrix unit the products are timed once per machine, and the ratio is kept in the
    cache folder, so that a machine always gives the same answer. float16 is never chosen, because residual
    streams overflow it.
    """
    if dtype != "auto":
        return getattr(torch, dtype), "asked for"
    if torch.device(device).type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.bfloat16, "this GPU multiplies bfloat16 faster than float32"
        return torch.float32, "this GPU has no bfloat16 arithmetic"
    if torch.cpu.get_capabilities().get(MATRIX_UNIT):
        return torch.bfloat16, f"this processor multiplies bfloat16 faster than float32 ({MATRIX_UNIT})"
    gain = bfloat16_gain()
    chosen = torch.bfloat16 if gain >= ENOUGH else torch.float32
    return chosen, f"products in bfloat16 are {gain:.2g} times as fast as in float32 on this processor"


@cache
def bfloat16_gain() -> float:
    """Return how many times as fast as float32 this processor multiplies bfloat16, measured once per machine.

    Reads and writes: `processors/KEY.json` in the cache folder, where the key stands for the processor's
    features and the version of torch. Where the folder cannot be written, each process measures for itself.
    """
    features = json.dumps([torch.__version__, torch.cpu.get_capabilities()], sort_keys=True, default=str)
    path = cache_folder() / "processors" / f"{hashlib.sha256(features.encode()).hexdigest()[:16]}.json"
    try:
        return float(read_json(path)["bfloat16_gain"])
    except (OSError, CorruptStoreError, KeyError, TypeError, ValueError):
        gain = _measure_gain()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json_atomic(path, {"type": "processor", "version": 1, "bfloat16_gain": gain})
    except (OSError, ResourceError):
        pass  # A measurement takes less than a second, so a read-only cache is no obstacle.
    return gain


def _measure_gain() -> float:
    """Return the median over rounds of the time of a product in float32 over that in bfloat16."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(rows, _WIDTH, generator=generator) for rows in (_ROWS, _WIDTH))
    pairs = [(left, right), (left.bfloat16(), right.bfloat16())]
    seconds: list[list[float]] = [[], []]
    with torch.inference_mode():
        for _ in range(_ROUNDS):
            for taken, (rows, weights) in zip(seconds, pairs, strict=True):
                begun = time.perf_counter()
                rows @ weights
                taken.append(time.perf_counter() - begun)
    # The first round prepares the kernels.
    return statistics.median(
        wide / narrow for wide, narrow in zip(*(row[1:] for row in seconds), strict=True)
    )


def device_name(device: str) -> str:
    """Return the product name of a GPU, or torch's name of another device."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


SPREAD = ("balanced", "balanced_low_0", "sequential")
"""Transformers' names for ways of spreading blocks over all GPUs, then main memory, then the disk."""


def is_spread(device: str) -> bool:
    """Return whether a `--device` spreads a model over several devices."""
    return device in SPREAD or device.endswith(".json")


def placing(device: str) -> dict[str, Any]:
    """Return the options of `from_pretrained` that spread a model as `device` says; none for one device.

    Args:
        device: one device, one of `SPREAD`, or a JSON file that maps module names, such as `embed_tokens` or
            `layers.0`, to the number of a GPU, `cpu` or `disk`.

    Raises:
        UsageError: the file does not hold such a mapping.

    """
    if not is_spread(device):
        return {}
    places = device if device in SPREAD else _read_map(Path(device))
    return {"device_map": places, "offload_folder": tempfile.mkdtemp(prefix="sparserm-offload-")}


def _read_map(path: Path) -> dict[str, str | int]:
    """Read the mapping from modules to devices."""
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
    """Return the devices that a model computes on; the first one takes its input.

    Weights that wait in main memory or on the disk have no device; a model of only such weights runs on the
    CPU.
    """
    devices = dict.fromkeys(str(weight.device) for weight in model.parameters() if not weight.is_meta)
    return list(devices) or ["cpu"]
