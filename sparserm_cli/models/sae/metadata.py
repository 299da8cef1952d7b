"""Metadata of an SAE, known before its weights are read, and the location of its files; without torch."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import xxhash

from sparserm_cli.errors import IncompatibleError
from sparserm_cli.files import hash_file

Settings = Mapping[str, Any]


class SAEMetadata(NamedTuple):
    """Metadata of an SAE, known before its weights are read.

    Fields:
        name: the path or release name that the user gave.
        format: format on disk, such as `saelens` or `gemma-scope`.
        architecture: SAELens' name of the architecture: standard, topk, jumprelu or gated.
        d_in: width of its input; None if only the weights tell.
        d_sae: number of latents; None if only the weights tell.
        hook_name: TransformerLens' name of the point in the model; None if it is not recorded.
        model_name: name of the model that it was trained on; None if it is not recorded.
        dtype: type of its weights, such as `float32`.
        normalization: SAELens' name of the normalisation of its input; `none` if there is none.
        settings: further fields of the configuration that the reader of the format needs.
    """

    name: str
    format: str
    architecture: str
    d_in: int | None
    d_sae: int | None
    hook_name: str | None
    model_name: str | None
    dtype: str
    normalization: str
    settings: Settings

    @property
    def layer(self) -> int | None:
        """Block, from 0, after which the residual stream is encoded; None for any other point.

        What enters block 8 (`blocks.8.hook_resid_pre`) is what leaves block 7.
        """
        return layer_of_hook(self.hook_name)

    @property
    def caution(self) -> str | None:
        """The reason why the SAE fits a plain forward pass of its model worse than it did in training."""
        places = [self.settings, self.settings.get("metadata")]
        options = [
            place.get("model_from_pretrained_kwargs") for place in places if isinstance(place, Mapping)
        ]
        if any(isinstance(option, Mapping) and option.get("center_writing_weights") for option in options):
            return (
                f"{self.name} was trained on a residual stream whose mean over its dimensions was taken off"
                " (center_writing_weights); the plain stream is encoded here, so latents may differ"
            )
        return None

    @property
    def own_record(self) -> Settings:
        """Record of `train-sae`, if the SAE was trained by it; else empty."""
        metadata = self.settings.get("metadata")
        own = metadata.get("sparserm") if isinstance(metadata, Mapping) else None
        return own if isinstance(own, Mapping) else {}

    @property
    def model_revision(self) -> str | None:
        """Revision of the model that it was trained on, if it is recorded."""
        revision = self.own_record.get("model_revision")
        return revision if isinstance(revision, str) else None

    def identity(self) -> dict[str, Any]:
        """Return the fields on which features depend, without the path, for the record of an artifact."""
        kept = ("architecture", "d_in", "d_sae", "hook_name", "model_name", "dtype", "normalization")
        return {key: getattr(self, key) for key in kept}


_PARTS = "model|language_model|transformer|gpt_neox|decoder|backbone|text_model|base_model"
"""Transformers' names of the modules that hold the blocks of a causal language model."""


def layer_of_hook(hook: str | None) -> int | None:
    """Return the block, from 0, after which a hook takes the residual stream; None for another point.

    What enters block 8 (`blocks.8.hook_resid_pre`, `model.layers.8.input`) is what leaves block 7.
    TransformerLens' names are known, and transformers' names of a block, such as `model.layers.2`, `h.2` or
    `gpt_neox.layers.2`, with or without `.output` or `.input` after them.
    """
    theirs = re.fullmatch(r"blocks\.(\d+)\.hook_resid_(pre|post)", hook or "")
    plain = re.fullmatch(rf"(?:(?:{_PARTS})\.)*(?:layers|h)\.(\d+)(?:\.(input|output))?", hook or "")
    match = theirs or plain
    layer = int(match[1]) - (match[2] in {"pre", "input"}) if match else -1
    return layer if layer >= 0 else None


class LocalSAE(NamedTuple):
    """An SAE's files on this machine.

    Fields:
        name: name that the user gave.
        format: one of the keys of `FORMATS`.
        folder: folder of the configuration.
        weights: path of the weight file.
        settings: overrides that a release table gives, such as `norm_scaling_factor`.
    """

    name: str
    format: str
    folder: Path
    weights: Path
    settings: Settings = MappingProxyType({})


def sae_digest(files: LocalSAE, metadata: SAEMetadata) -> str:
    """Return `xxh3:` and the 128-bit digest of configuration and weight file, on which latents depend."""
    settings = {key: value for key, value in metadata.settings.items() if key not in {"metadata", "l0"}}
    facts = [metadata.architecture, metadata.normalization, settings]
    hasher = xxhash.xxh3_128(json.dumps(facts, sort_keys=True, default=dict).encode())
    digest, _ = hash_file(files.weights, lambda: hasher, IncompatibleError)
    return f"xxh3:{digest}"
