"""Ways to break a model's folder, whatever its architecture, each of which has to be refused."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

WEIGHTS = "model.safetensors"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"

Weights = dict[str, torch.Tensor]


def rewrite(folder: Path, change: Callable[[Weights], Weights]) -> None:
    """Store other weights."""
    weights = change(load_file(folder / WEIGHTS))
    save_file({name: tensor.clone() for name, tensor in weights.items()}, folder / WEIGHTS, {"format": "pt"})


def matrix(weights: Weights) -> str:
    """Name the first matrix of block 0 of the text part."""
    own = (name for name in sorted(weights) if ".0." in name and weights[name].ndim >= 2)
    return next(name for name in own if not any(part in name for part in ("vision", "audio")))


def without_one(weights: Weights) -> Weights:
    """Leave out a matrix of block 0."""
    return {name: tensor for name, tensor in weights.items() if name != matrix(weights)}


def renamed(weights: Weights) -> Weights:
    """Put what nobody knows before every name."""
    return {f"inner.{name}": tensor for name, tensor in weights.items()}


def with_adapter(weights: Weights) -> Weights:
    """Put half of an adapter beside a matrix of block 0."""
    return weights | {matrix(weights).removesuffix(".weight") + ".lora_A.weight": torch.ones(2, 2)}


def with_empty(weights: Weights) -> Weights:
    """Leave nothing in a matrix of block 0."""
    return weights | {matrix(weights): torch.ones(0)}


def with_other_size(weights: Weights) -> Weights:
    """Give a matrix of block 0 one row more."""
    tensor = weights[matrix(weights)]
    return weights | {matrix(weights): torch.cat([tensor, tensor[:1]])}


def with_packed(weights: Weights) -> Weights:
    """Store a matrix in whole numbers."""
    own = [name for name in sorted(weights) if ".0." in name and weights[name].ndim == 2]
    return weights | {own[0]: weights[own[0]].to(torch.int8)}


def cut(folder: Path) -> None:
    """Keep the first half of the weights' file."""
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])


def with_more_blocks(folder: Path) -> None:
    """Say that there are two blocks more than there are weights for."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    text: dict[str, Any] = config.get("text_config", config)
    name = next(key for key in ("num_hidden_layers", "n_layer", "n_layers", "num_layers") if key in text)
    count = text[name]
    text[name] = count + 2
    for key, value in text.items():
        if isinstance(value, list) and len(value) == count:
            text[key] = [*value, *value[-2:]]
    path.write_text(json.dumps(config))


def beside_an_adapter(folder: Path) -> None:
    """Put an adapter into the folder of a whole model."""
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "org/base"}))


WAYS: Mapping[str, Callable[[Path], object]] = {
    "a missing tensor": lambda folder: rewrite(folder, without_one),
    "an unknown prefix": lambda folder: rewrite(folder, renamed),
    "more blocks than weights": with_more_blocks,
    "an adapter's tensor": lambda folder: rewrite(folder, with_adapter),
    "an empty tensor": lambda folder: rewrite(folder, with_empty),
    "another size": lambda folder: rewrite(folder, with_other_size),
    "packed weights": lambda folder: rewrite(folder, with_packed),
    "a cut file": cut,
    "a Git LFS pointer": lambda folder: (folder / WEIGHTS).write_text(POINTER),
    "an adapter beside it": beside_an_adapter,
}
"""What has happened to a folder, and what does it."""
