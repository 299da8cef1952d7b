"""`describe`: say what each selected direction stands for, and test the names that it gets.

Reads: `directions/`, `features.zarr`, the token ids of `activations.zarr`; of the language model the
tokenizer, the final norm and the LM head, the last in slices. Writes: `directions/descriptions.json`.
Memory: one unit of features, `BLOCK` latents with a fixed number of contexts each, and one slice of the LM
head.
"""

import time
from collections.abc import Iterator
from functools import partial
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64

from sparserm_cli.analysis.contexts import Firing
from sparserm_cli.analysis.describe.language_model_names import Describer
from sparserm_cli.analysis.describe.promoted_tokens import Unembedding
from sparserm_cli.analysis.describe.records import Evidence, record
from sparserm_cli.analysis.firing import firing_of
from sparserm_cli.config import DescribeConfig, Note, Phases
from sparserm_cli.data.rendering.row_tokenizer import tokenizer_digest
from sparserm_cli.errors import IncompatibleError
from sparserm_cli.models.checkpoints.resolve import ModelIdentity, load_tokenizer, resolve_model
from sparserm_cli.models.sae.releases import neuronpedia_page
from sparserm_cli.store.artifacts.descriptions import (
    TYPE,
    VERSION,
    Descriptions,
    descriptions_path,
    read_descriptions,
    write_descriptions,
)
from sparserm_cli.store.artifacts.directions import Directions, read_directions
from sparserm_cli.store.capture.artifact import open_capture
from sparserm_cli.store.capture.reader import ActivationsReader
from sparserm_cli.store.features.artifact import features_path
from sparserm_cli.store.features.reader import FeaturesReader
from sparserm_cli.store.provenance import Lineage, check_parent
from sparserm_cli.store.run.artifacts import is_made
from sparserm_cli.store.run.locks import run_lock

BLOCK = 64
"""Latents that are looked for in one pass over the features."""


class DescribeSummary(NamedTuple):
    """What `describe` has found.

    Fields:
        path: file of the descriptions.
        descriptions: the descriptions that were written or were there already.
        seconds: duration of the command in seconds.
        fresh: whether the descriptions were up to date already.
    """

    path: PurePath
    descriptions: Descriptions
    seconds: float
    fresh: bool


class Sources(NamedTuple):
    """What descriptions are made from.

    Fields:
        directions: the selected directions.
        features: the latents of the response tokens.
        capture: the capture, for the token ids.
        identity: the language model.
        tokenizer: its tokenizer.
    """

    directions: Directions
    features: FeaturesReader
    capture: ActivationsReader
    identity: ModelIdentity
    tokenizer: Any


def describe(config: DescribeConfig, *, progress: Phases, note: Note) -> DescribeSummary:
    """Describe every selected direction, unless the run has the descriptions already.

    Args:
        config: the options.
        progress: called with what is done, work done and work in all.
        note: called with messages for the user.

    Raises:
        IncompatibleError: an artifact is absent or stale, the tokenizer is another one, or the server that
            makes names is not to be used.
        CorruptStoreError: an artifact is damaged.
        TemporaryError: the server that makes names does not answer.
        ResourceError: the disk is full.

    """
    begun = time.monotonic()
    # 1. Open the directions and what they were made from; all of it must belong together.
    sources = _sources(config)
    describer = Describer(config.describer, config.describer_model) if config.describer else None
    lineage, path = _lineage(config, sources, describer), descriptions_path(config.run)
    if is_made(config.run, lineage):
        note(f"{path.name} is up to date")
        there = read_descriptions(config.run)
        return DescribeSummary(path, there, time.monotonic() - begun, fresh=True)
    # 2. Describe layer by layer: tokens by the LM head, contexts by passes over the features, then names.
    unembedding = _unembedding(sources.identity, note)
    layers = {
        layer: list(_layer(config, sources, unembedding, describer, layer, progress))
        for layer in sources.directions.layers
    }
    # 3. Write the descriptions beside the directions.
    served = None if describer is None else describer.to_json()
    with run_lock(config.run):
        check_parent(
            str(path),
            lineage.parent("directions"),
            read_directions(config.run).lineage.as_parent(),
            "run `sparserm describe` again",
        )
        written = write_descriptions(config.run, Descriptions(lineage, layers, served))
    return DescribeSummary(path, written, time.monotonic() - begun, fresh=False)


def _sources(config: DescribeConfig) -> Sources:
    """Open what descriptions are made from.

    Raises:
        IncompatibleError: an artifact is absent or was made from another one, or the tokenizer differs.

    """
    directions = read_directions(config.run)
    features, capture = FeaturesReader(features_path(config.run)), open_capture(config.run)
    features.check_parent(capture.lineage.as_parent())
    where = f"{config.run / 'directions'} (from features)"
    recorded = directions.lineage.parent("features")
    check_parent(where, recorded, features.lineage.as_parent(), "run `sparserm select`")
    settings = capture.plan.settings
    identity = resolve_model(config.model or settings.model, offline=config.offline)
    tokenizer = load_tokenizer(identity)
    digest = tokenizer_digest(tokenizer)
    if digest != settings.tokenizer:
        hint = "give --model with the model of the capture"
        raise IncompatibleError(f"{capture.root}: tokenizer", settings.tokenizer, digest, hint)
    return Sources(directions, features, capture, identity, tokenizer)


def _lineage(config: DescribeConfig, sources: Sources, describer: Describer | None) -> Lineage:
    """Return what the descriptions depend on."""
    identity: dict[str, Any] = {"seed": config.seed, "model_revision": sources.identity.revision}
    if describer is not None:
        identity |= {"describer": describer.to_json(), "judged": config.judged}
    parents = {
        "directions": sources.directions.lineage.as_parent(),
        "features": sources.features.lineage.as_parent(),
    }
    return Lineage(TYPE, VERSION, identity, parents)


def _unembedding(identity: ModelIdentity, note: Note) -> Unembedding | None:
    """Open the final norm and the LM head; without them directions have no tokens, which is said."""
    try:
        return Unembedding(identity)
    except IncompatibleError as error:
        note(f"the tokens that directions promote are not known: {error}")
        return None


def _layer(
    config: DescribeConfig,
    sources: Sources,
    unembedding: Unembedding | None,
    describer: Describer | None,
    layer: int,
    progress: Phases,
) -> Iterator[dict[str, Any]]:
    """Yield the descriptions of one layer's directions, in their order."""
    chosen = sources.directions.layers[layer]
    for start in range(0, len(chosen.feature), BLOCK):
        block = slice(start, start + BLOCK)
        ends = unembedding.ends(chosen.rows[block], sources.tokenizer) if unembedding else None
        firing = _firing(config, sources, layer, chosen.feature[block], progress)
        for number, feature in enumerate(chosen.feature[block].tolist()):
            if describer is not None:
                progress(f"names of layer {layer}", start + number, len(chosen.feature))
            evidence = Evidence(
                feature,
                int(chosen.side[start + number]),
                None if ends is None else ends[number],
                firing.get(feature),
                None if feature < 0 else neuronpedia_page(sources.features.plan.sae(layer).name, feature),
            )
            yield record(evidence, sources.tokenizer, describer, config.judged)


def _firing(
    config: DescribeConfig,
    sources: Sources,
    layer: int,
    latents: Int64[np.ndarray, " latents"],
    progress: Phases,
) -> dict[int, Firing]:
    """Return where some latents fire, by latent; random directions have none."""
    known = sorted({int(feature) for feature in latents if feature >= 0})
    if not known:
        return {}
    advance = partial(progress, f"contexts of layer {layer}")
    how: dict[str, Any] = {"seed": config.seed, "others": True}
    firing = firing_of(sources.features, sources.capture, layer, known, advance, **how)
    return dict(zip(known, firing, strict=True))
