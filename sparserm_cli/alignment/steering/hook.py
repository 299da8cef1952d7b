"""Add vectors to the residual stream of a transformers model while it generates."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor, nn

from sparserm_cli.errors import IncompatibleError
from sparserm_cli.models.lm.backbone import blocks_of


@contextmanager
def steered(policy: Any, vectors: Mapping[int, Float32[np.ndarray, " d_in"]]) -> Iterator[None]:
    """Add a vector after each of some blocks, at every token, until the context ends.

    llama.cpp does the same with a control vector.

    Args:
        policy: a causal language model of transformers.
        vectors: block, counted from 0, to the vector that is added to its output.

    Raises:
        IncompatibleError: the policy lacks a block, or its residual stream has another width.

    """
    decoder = policy.get_decoder()
    blocks, width = blocks_of(decoder), decoder.config.hidden_size
    for layer, vector in vectors.items():
        if not 0 <= layer < len(blocks) or vector.shape != (width,):
            expected = f"vectors of width {width} for blocks from 0 to {len(blocks) - 1}"
            found = f"shape {vector.shape} for block {layer}"
            raise IncompatibleError("the steering vector", expected, found, "take the reward of this model")
    handles = [
        blocks[layer].register_forward_hook(_adder(torch.from_numpy(vector)))
        for layer, vector in vectors.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _adder(vector: Tensor) -> Callable[..., Any]:
    """Return a forward hook that adds a vector to a block's output."""

    def add(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (output[0] + vector.to(output[0]), *output[1:])
        return output + vector.to(output)

    return add
