"""The fused pass of `extract --sae`: latents are stored as the residual stream goes by, its tokens are not.

A unit's latents are on the disk before its pooled vectors, so a capture's receipt vouches for both.

Memory: besides that of `extract`, the SAEs, one unit of latents and one tile of pre-activations.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from sparserm_cli.config import ExtractConfig, Note
from sparserm_cli.stages.encode import ensure_features_plan, finished_features
from sparserm_cli.stages.layer_saes import name_by_layer, sae_facts
from sparserm_cli.store.activations import ActivationsReader, ActivationsWriter
from sparserm_cli.store.features import FeaturesWriter, features_path
from sparserm_cli.store.layout import ACTIVATIONS
from sparserm_cli.store.locks import plan_lock
from sparserm_cli.store.units import UnitStore

if TYPE_CHECKING:
    from torch import Tensor

    from sparserm_cli.models.lm import LanguageModel
    from sparserm_cli.stages.encode_units import UnitEncoder


class Latents:
    """Takes the tokens of each unit and leaves their latents in `features.zarr`.

    Args:
        capture: the capture in the making.
        features: the encoding in the making.
        encoder: what fills it.

    """

    def __init__(self, capture: ActivationsWriter, features: FeaturesWriter, encoder: "UnitEncoder") -> None:
        self._capture, self._features, self._encoder = capture, features, encoder

    def take(self, unit: int, layers: Mapping[int, dict[str, np.ndarray]], rejected: tuple[int, ...]) -> None:
        """Encode and write a unit's tokens, and take them out of its arrays.

        Args:
            unit: its number.
            layers: its arrays; `tokens` of every layer is removed.
            rejected: numbers of the responses that could not be computed.

        """
        from sparserm_cli.stages.encode_units import usable_activations

        span, lengths = self._capture.rows.span(unit), self._capture.rows.lengths(unit)
        tokens = {layer: arrays.pop("tokens") for layer, arrays in layers.items()}
        self._features.store.start(unit)
        self._encoder.compute(
            unit, lambda layer: usable_activations(tokens.pop(layer), span, lengths, rejected)
        )

    def finish(self, digest: str) -> str:
        """Write the manifest of the encoding, if no other worker still has units; return its content digest.

        Args:
            digest: that of the complete capture.

        """
        store = self._features.store
        manifest = store.manifest() or store.finalize({ACTIVATIONS: digest})
        return "" if manifest is None else manifest.digest


def open_latents(
    config: ExtractConfig, capture: ActivationsWriter, model: Callable[[], "LanguageModel"], note: Note
) -> Latents | None:
    """Prepare the encoding that belongs to a capture, or continue it; None if both are complete.

    Args:
        config: the options.
        capture: the planned capture, of `latents`.
        model: gives the loaded language model.
        note: told how well the SAEs fit.

    Raises:
        UsageError: no SAE is given, or two for one layer.
        IncompatibleError: an SAE does not fit, or there are features of another SAE.
        CorruptStoreError: what is there is damaged.
        ResourceError: disk, memory or device are not to be had.

    """
    # 1. What each SAE says about itself; and whether there is anything to do.
    names = name_by_layer(config.sae, capture.plan.settings, allow_mismatch=config.allow_mismatch)
    root = features_path(config.run)
    complete = capture.store.manifest() is not None
    if complete and finished_features(root, ActivationsReader(capture.root), names) is not None:
        return None
    # 2. A sample of what the model computes shows whether the SAEs are what their labels say.
    from sparserm_cli.stages.encode_units import UnitEncoder, load_and_sample

    sampled = _sample(capture, model())
    saes, _ = load_and_sample(names, config, note, lambda layer: sampled[layer])
    facts = [sae_facts(sae.metadata, sae.digest, layer) for layer, sae in saes.items()]
    # 3. The encoding is planned with the capture's plan for a parent; a unit is done when both have it.
    with plan_lock(config.run):
        ensure_features_plan(root, capture, facts, config, note)
    features = FeaturesWriter(root)
    _level(capture.store, features.store, config.worker)
    return Latents(capture, features, UnitEncoder(features, saes))


def _sample(capture: ActivationsWriter, lm: "LanguageModel") -> "dict[int, Tensor]":
    """Return residual vectors of each layer, shape (rows, d_in), on the first responses of the plan."""
    import torch

    from sparserm_cli.models.capture import capture as run
    from sparserm_cli.models.tree import Tree
    from sparserm_cli.stages.encode_units import SAMPLE_ROWS

    trees, tokens = [], 0
    for tree in capture.trees(0):
        trees.append(Tree(tree.prompt_ids, tree.responses))
        tokens += sum(map(len, tree.responses))
        if tokens >= SAMPLE_ROWS:
            break
    taken = [residuals for _, _, residuals in run(lm, trees, on_nonfinite="reject")]
    return {layer: torch.cat([one[layer] for one in taken]) for layer in capture.plan.settings.layers}


def _level(capture: UnitStore, features: UnitStore, worker: tuple[int, int]) -> None:
    """Drop the units that only one of the two has; tokens are not kept, so both are made again."""
    stores = (capture, features)
    pending = [set(store.pending(*worker)) for store in stores]
    for store, missing, others in zip(stores, pending, reversed(pending), strict=True):
        if behind := sorted(others - missing):
            store.drop(behind)
