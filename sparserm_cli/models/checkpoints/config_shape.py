"""The sizes of a model that are known from its configuration, before any weight is read."""

import json
from typing import NamedTuple

from sparserm_cli.errors import IncompatibleError, UsageError
from sparserm_cli.models.checkpoints.resolve import ModelIdentity


class ModelShape(NamedTuple):
    """What planning a capture needs to know.

    Fields:
        d_in: width of the residual stream.
        blocks: number of blocks.
        max_positions: longest sequence in tokens; a very large number where the model sets none.
    """

    d_in: int
    blocks: int
    max_positions: int


_NAMES = {
    "d_in": ("hidden_size", "n_embd", "d_model"),
    "blocks": ("num_hidden_layers", "n_layer", "num_layers"),
    "max_positions": ("max_position_embeddings", "n_positions", "n_ctx"),
}
NO_LIMIT = 2**31 - 1


def read_shape(identity: ModelIdentity) -> ModelShape:
    """Read `config.json` of a resolved model, the text part of a multimodal one.

    Raises:
        IncompatibleError: the configuration names no width or number of blocks.

    """
    path = identity.folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config = {**config, **config.get("text_config", {})}
    found = {
        field: next((config[name] for name in names if config.get(name)), None)
        for field, names in _NAMES.items()
    }
    if found["d_in"] is None or found["blocks"] is None:
        missing = "hidden_size and num_hidden_layers"
        raise IncompatibleError(str(path), missing, "neither, or one", "choose a causal language model")
    return ModelShape(int(found["d_in"]), int(found["blocks"]), int(found["max_positions"] or NO_LIMIT))


def check_layers(identity: ModelIdentity, layers: tuple[int, ...]) -> ModelShape:
    """Return the model's sizes if it has all of `layers`.

    Raises:
        UsageError: a layer is not one of the model's.

    """
    shape = read_shape(identity)
    if max(layers) >= shape.blocks:
        found = ", ".join(map(str, layers))
        raise UsageError(
            "--layer", f"layers from 0 to {shape.blocks - 1} for {identity.name}", found, "correct the option"
        )
    return shape
