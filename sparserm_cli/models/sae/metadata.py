"""What is known about an SAE before its weights are read, and where its files lie. No torch, no sae_lens."""

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
    """What is known about an SAE before its weights are read.

    Fields:
        name: the path or release name that the user gave.
        format: format on disk, such as `saelens` or `gemma-scope`.
        architecture: SAELens' name of it: standard, topk, jumprelu or gated.
        d_in: width of its input; None if only the weights say.
        d_sae: number of latents; None if only the weights say.
        hook_name: place in the model, in TransformerLens' words; None if not recorded.
        model_name: model it was trained on; None if not recorded.
        dtype: type of its weights, such as `float32`.
        normalization: what is done to its input, in SAELens' words; `none` if nothing.
        settings: what else the format's configuration says, as its reader needs it.
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
        """Block after which the residual stream is encoded, counted from 0; None for any other place.

        What enters block 8 (`blocks.8.hook_resid_pre`) is what leaves block 7.
        """
        return layer_of_hook(self.hook_name)

    @property
    def caution(self) -> str | None:
        """What makes the SAE a worse fit to a plain forward pass of its model than it was in training."""
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
        """What `train-sae` recorded of it, if it was trained here; else nothing."""
        metadata = self.settings.get("metadata")
        own = metadata.get("sparserm") if isinstance(metadata, Mapping) else None
        return own if isinstance(own, Mapping) else {}

    @property
    def model_revision(self) -> str | None:
        """Revision of the model it was trained on, if recorded."""
        revision = self.own_record.get("model_revision")
        return revision if isinstance(revision, str) else None

    def identity(self) -> dict[str, Any]:
        """Return the fields that features depend on, for the record of an artifact; the path is not one."""
        kept = ("architecture", "d_in", "d_sae", "hook_name", "model_name", "dtype", "normalization")
        return {key: getattr(self, key) for key in kept}


_PARTS = "model|language_model|transformer|gpt_neox|decoder|backbone|text_model|base_model"
"""Modules that the blocks of a causal language model stand in, in transformers' words."""


def layer_of_hook(hook: str | None) -> int | None:
    """Return the block after which a hook takes the residual stream, counted from 0; None for another place.

    What enters block 8 (`blocks.8.hook_resid_pre`, `model.layers.8.input`) is what leaves block 7. Known are
    TransformerLens' names and transformers' names of a block: `model.layers.2`, `h.2`, `gpt_neox.layers.2`,
    with `.output` or `.input` behind them or nothing.
    """
    theirs = re.fullmatch(r"blocks\.(\d+)\.hook_resid_(pre|post)", hook or "")
    plain = re.fullmatch(rf"(?:(?:{_PARTS})\.)*(?:layers|h)\.(\d+)(?:\.(input|output))?", hook or "")
    match = theirs or plain
    layer = int(match[1]) - (match[2] in {"pre", "input"}) if match else -1
    return layer if layer >= 0 else None


class LocalSAE(NamedTuple):
    """An SAE's files on this machine.

    Fields:
        name: what the user called it.
        format: one of the keys of `FORMATS`.
        folder: where the configuration lies.
        weights: the weight file.
        settings: overrides that a release table gives, such as `norm_scaling_factor`.
    """

    name: str
    format: str
    folder: Path
    weights: Path
    settings: Settings = MappingProxyType({})


def sae_digest(files: LocalSAE, metadata: SAEMetadata) -> str:
    """Return `xxh3:` and the 128-bit digest of all that latents depend on: configuration and weight file."""
    settings = {key: value for key, value in metadata.settings.items() if key not in {"metadata", "l0"}}
    facts = [metadata.architecture, metadata.normalization, settings]
    hasher = xxhash.xxh3_128(json.dumps(facts, sort_keys=True, default=dict).encode())
    digest, _ = hash_file(files.weights, lambda: hasher, IncompatibleError)
    return f"xxh3:{digest}"
