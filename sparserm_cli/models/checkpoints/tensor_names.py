"""Match the tensors of a checkpoint with the weights of a model by name; none may be missing or left over.

transformers fills a weight that it does not find with random numbers and continues. Here the names are
compared before any weight is read, on a model without memory. Prefixes that wrappers put before every name
are removed if every name fits without them; anything else that does not fit is refused by name.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import nn

from sparserm_cli.errors import IncompatibleError

WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "base_layer.")
"""Parts that torch.compile, FSDP, activation checkpointing and PEFT insert anywhere in a name."""

PREFIXES = ("module.", "policy.", "base_model.model.", "pretrained_model.")
"""Prefixes that data parallelism, PPO code, PEFT and TRL's value heads put before every name."""

TEXT_PARTS = ("model.language_model.", "language_model.")
"""Prefixes that vision models put before the names of their text part."""

SHOWN = 3
"""Largest number of tensor names that an error shows."""

_HARMLESS = re.compile(
    r"(rotary_emb\.(inv_freq|cos_cached|sin_cached)|(attn|attention)\.(masked_)?bias|\.[qkv]_scale)$"
)
"""Tensors that need no weight: those that follow from the configuration, and scales of a KV cache."""

_HEADS = re.compile(r"^(model\.)?(lm_head|embed_out)\.weight$")
"""Names that architectures give the matrix from residuals to vocabulary."""


class Loaded(NamedTuple):
    """A model, and what transformers reports about the names in its checkpoint.

    Fields:
        model: the model that was built.
        decoder: the truncated part of it that is computed.
        blocks: the list of its blocks.
        missing: weights of `model` that the checkpoint lacks.
        unexpected: names in the checkpoint that no weight of `model` has, as they are in the file.
        sizes: both shapes, in words, of each weight whose size differs from the configuration.
    """

    model: nn.Module
    decoder: nn.Module
    blocks: nn.ModuleList
    missing: Collection[str]
    unexpected: Collection[str]
    sizes: Mapping[str, str] = MappingProxyType({})


class Renaming(NamedTuple):
    """The change from names of a checkpoint to those of the model.

    Fields:
        mapping: regular expressions and their replacements, in order, as transformers takes them.
        note: the change in words; empty if the names were not changed.
    """

    mapping: dict[str, str]
    note: str


def fit_names(name: str, load: Callable[[dict[str, str]], Loaded], *, tied: bool) -> Renaming:
    """Find the renaming under which a checkpoint has every weight that is computed, and no other in a block.

    Args:
        name: name that the user gave for the model.
        load: function that builds the model under a renaming, without reading weights.
        tied: whether the LM head is the embedding.

    Raises:
        IncompatibleError: there is no such renaming; the error names the first missing or left-over weights.

    """
    plain = loaded = load({})
    mapping: dict[str, str] = {}
    if wrong_names(loaded):
        mapping = _without_wrappers(loaded)
        loaded = load(mapping) if mapping else loaded
    taken = ", ".join(pattern.replace("\\", "").strip("^") for pattern in mapping)
    said = [f"{taken} taken off the names of its tensors"] if mapping else []
    embedding = _embedding(loaded)
    if tied and wrong_names(loaded) == Wrong([embedding], [], []):
        heads = [tensor for tensor in _renamed(loaded.unexpected, mapping) if _HEADS.match(tensor)]
        if len(heads) == 1:
            mapping |= {f"^{re.escape(heads[0])}$": embedding}
            said.append(f"{heads[0]} read as the embedding, which is tied to it")
            loaded = load(mapping)
    refuse_wrong_names(name, min(loaded, plain, key=lambda attempt: len(wrong_names(attempt))))
    return Renaming(mapping, f"{name}: {', '.join(said)}; every name fits" if said else "")


class Wrong(NamedTuple):
    """The names that do not fit; all fields are empty if everything fits.

    Fields:
        missing: weights without a tensor.
        unknown: tensors of computed blocks that belong to no weight.
        sizes: weights whose tensor has another shape, with both shapes.
    """

    missing: list[str]
    unknown: list[str]
    sizes: list[str]

    def __len__(self) -> int:
        """Return the number of names."""
        return len(self.missing) + len(self.unknown) + len(self.sizes)


def wrong_names(loaded: Loaded) -> Wrong:
    """Collect the names up to the last computed block that do not fit."""
    inside = _path(loaded.model, loaded.decoder)
    missing = sorted(name for name in loaded.missing if name.startswith(inside))
    sizes = [f"{name} of {loaded.sizes[name]}" for name in sorted(loaded.sizes) if name.startswith(inside)]
    numbers = {name: _block(loaded, name) for name in sorted(loaded.unexpected)}
    unknown = [
        name
        for name, block in numbers.items()
        if block is not None and block < len(loaded.blocks) and not _HARMLESS.search(name)
    ]
    return Wrong(missing, unknown, sizes)


def refuse_wrong_names(name: str, loaded: Loaded) -> None:
    """Refuse a model if anything does not fit, and name the tensors that the checkpoint has instead.

    Raises:
        IncompatibleError: a weight is missing, left over or of another size.

    """
    missing, unknown, sizes = wrong_names(loaded)
    expected = f"every weight of its first {len(loaded.blocks)} blocks"
    hint = "give a checkpoint whose config.json is that of its weights"
    if missing:
        found = f"none for {_shown(missing)}"
        others = [tensor for tensor in sorted(loaded.unexpected) if _is_strange(loaded, tensor)]
        found += f", and instead {_shown(others)}" if others else ""
        raise IncompatibleError(name, expected, found, hint)
    if unknown:
        found = f"tensors that {type(loaded.decoder).__name__} has no place for: {_shown(unknown)}"
        hint += ", with adapters merged into them"
        raise IncompatibleError(name, f"{expected} and no more", found, hint)
    if sizes:
        raise IncompatibleError(name, f"{expected} in the sizes of its config.json", _shown(sizes), hint)


def _is_strange(loaded: Loaded, name: str) -> bool:
    """Return whether a left-over name matters: it is no LM head and no block that is not computed."""
    return not _HEADS.match(name) and (_block(loaded, name) or 0) < len(loaded.blocks)


def _block(loaded: Loaded, name: str) -> int | None:
    """Return the number of the block that a tensor in a checkpoint belongs to, or None."""
    base = getattr(loaded.model, "base_model_prefix", "")
    blocks = _path(loaded.model, loaded.blocks)
    numbered = re.match(rf"(?:{re.escape(base)}\.)?{re.escape(blocks)}(\d+)\.", name)
    return int(numbered[1]) if numbered else None


def _shown(names: Collection[str]) -> str:
    """Return the first names, and the number of all names, in words."""
    shown = ", ".join(list(names)[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN:,} more"


def _without_wrappers(loaded: Loaded) -> dict[str, str]:
    """Return the renaming that removes known parts from the names that were not recognised."""
    mapping: dict[str, str] = {}
    names = list(loaded.unexpected)
    for part in WRAPPERS:
        if any(part in name for name in names):
            mapping[re.escape(part)] = ""
            names = _renamed(names, {re.escape(part): ""})
    while part := next((prefix for prefix in PREFIXES if names and _all_begin(names, prefix)), ""):
        mapping[f"^{re.escape(part)}"] = ""
        names = _renamed(names, {f"^{re.escape(part)}": ""})
    for part in TEXT_PARTS:
        if any(name.startswith(part) for name in names):
            mapping[f"^{re.escape(part)}"] = ""
            break
    return mapping


def _all_begin(names: Iterable[str], prefix: str) -> bool:
    return all(name.startswith(prefix) for name in names)


def _renamed(names: Iterable[str], mapping: dict[str, str]) -> list[str]:
    """Return names as transformers renames them."""
    renamed = list(names)
    for pattern, new in mapping.items():
        renamed = [re.sub(pattern, new, name) for name in renamed]
    return renamed


def _embedding(loaded: Loaded) -> str:
    """Return the name of the weight of the token embedding."""
    given: Any = loaded.model
    return f"{_path(given, given.get_input_embeddings())}weight"


def _path(model: nn.Module, part: nn.Module) -> str:
    """Return the beginning of the names of a part's weights."""
    name = next((name for name, module in model.named_modules() if module is part), "")
    return f"{name}." if name else ""
