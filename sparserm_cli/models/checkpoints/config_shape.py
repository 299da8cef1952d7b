"""The sizes of a model that are known from its configuration, before any weight is read."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt32

from sparserm_cli.errors import IncompatibleError, UsageError
from sparserm_cli.formatting import first_line
from sparserm_cli.models.checkpoints.library_noise import silence_transformers
from sparserm_cli.models.checkpoints.resolve import ModelIdentity


class ModelShape(NamedTuple):
    """Sizes of a model that the plan of a capture depends on.

    Fields:
        d_in: width of the residual stream.
        blocks: number of blocks.
        max_positions: longest sequence in tokens; a very large number if the model sets no limit.
        vocabulary: number of rows of the embedding; a very large number if the configuration has none.
    """

    d_in: int
    blocks: int
    max_positions: int
    vocabulary: int


NO_LIMIT = 2**31 - 1


def read_config(identity: ModelIdentity) -> Any:
    """Read a model's configuration, whatever attention it was trained with.

    Raises:
        IncompatibleError: the configuration is not one that transformers knows.

    """
    with silence_transformers():
        from transformers import AutoConfig

        try:
            config = AutoConfig.from_pretrained(
                str(identity.folder), local_files_only=True, trust_remote_code=identity.remote_code
            )
        except Exception as error:  # a field of an unexpected type may raise any of them
            path = str(identity.folder / "config.json")
            hint = "give a model that this release of transformers knows, or upgrade transformers"
            raise IncompatibleError(path, "a transformers model", first_line(error), hint) from error
    config._attn_implementation = None  # noqa: SLF001  # there is no public word for "none in particular"
    return config


def read_shape(identity: ModelIdentity) -> ModelShape:
    """Read the sizes of a resolved model; of a multimodal model, those of its text part.

    Raises:
        IncompatibleError: the configuration is not one that transformers knows, or it names no width or
            number of blocks.

    """
    config = read_config(identity).get_text_config(decoder=True)
    d_in, blocks = (getattr(config, name, None) for name in ("hidden_size", "num_hidden_layers"))
    if not d_in or not blocks:
        path, missing = str(identity.folder / "config.json"), "hidden_size and num_hidden_layers"
        raise IncompatibleError(path, missing, "neither, or one", "choose a causal language model")
    limits = (getattr(config, name, None) for name in ("max_position_embeddings", "vocab_size"))
    return ModelShape(int(d_in), int(blocks), *(int(limit or NO_LIMIT) for limit in limits))


def check_ids(name: str, ids: UInt32[np.ndarray, " tokens"], vocabulary: int) -> None:
    """Refuse token ids that a model has no embedding for.

    Args:
        name: name that the user gave for the model.
        ids: token ids of a prompt or a response.
        vocabulary: number of rows of the embedding.

    Raises:
        IncompatibleError: there is such an id.

    """
    highest = int(ids.max(initial=0))
    if highest >= vocabulary:
        expected = f"token ids below {vocabulary:,}, the rows of its embedding"
        hint = "use the tokenizer that the model was trained with"
        raise IncompatibleError(name, expected, f"{highest:,}", hint)


def check_layers(identity: ModelIdentity, layers: tuple[int, ...]) -> ModelShape:
    """Return the sizes of the model, after checking that it has all of `layers`.

    Raises:
        UsageError: the model does not have one of the layers.

    """
    shape = read_shape(identity)
    if max(layers) >= shape.blocks:
        found = ", ".join(map(str, layers))
        raise UsageError(
            "--layer", f"layers from 0 to {shape.blocks - 1} for {identity.name}", found, "correct the option"
        )
    return shape
