"""Where the blocks of a model lie that one device cannot hold: on several, in main memory, on the disk.

The placing is transformers' `device_map`: accelerate moves what a block takes to where the block lies, and
fetches blocks that lie in main memory or on the disk when they are run. Those on the disk are read from the
checkpoint itself; only weights that transformers converts first, such as experts, are written to a folder.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

from torch import nn

from sparserm_cli.errors import UsageError

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
    if not isinstance(places, dict) or not all(type(one) in (str, int) for one in places.values()):
        found = f"{path}, which holds something else"
        raise UsageError("--device", "module names with a device each", found, "repair the file")
    return places


def devices_of(model: nn.Module) -> list[str]:
    """Return the devices that a model computes on, the one that takes its input first.

    Weights that wait in main memory or on the disk have none; a model that has only such runs on the CPU.
    """
    found = dict.fromkeys(str(one.device) for one in model.parameters() if not one.is_meta)
    return list(found) or ["cpu"]
