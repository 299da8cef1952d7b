"""The subspace that style moves, found from twins and taken out of every direction and control of a fit.

Twins are pairs of responses that say the same in two styles, captured like preference pairs. No label of a
preference is read from them. What the difference of their vectors spans is what style alone can move, so
directions without it give the same score to both.

Axes: `twins` pairs of twins, `size` directions of style, `d_in` width of the residual stream.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from sparserm_cli.errors import IncompatibleError, UsageError
from sparserm_cli.locations import parse_location
from sparserm_cli.models.head.projections import DENSE_PAIRS, projections
from sparserm_cli.stages.fit.split import Split, split_pairs
from sparserm_cli.stages.fit.style_size import Twins, best_size, style_basis, try_sizes
from sparserm_cli.store.artifacts.head_arrays import HeadArrays
from sparserm_cli.store.artifacts.reward_checks import POOLINGS
from sparserm_cli.store.capture.artifact import open_capture
from sparserm_cli.store.capture.reader import ActivationsReader

SAME = ("model_revision", "tokenizer", "template", "dtype")
"""Settings that both captures must share, since vectors of two models cannot be compared."""


class Style(NamedTuple):
    """What is taken out."""

    bases: Mapping[int, Float32[np.ndarray, "size d_in"]]
    """Layer to orthonormal directions of style; no rows if nothing is taken out."""
    facts: dict[str, Any]
    """What a reward model records: where the twins lie, how many there are, and every size that was tried."""


def twins_digest(run: str) -> str:
    """Return the digest of the twins' capture.

    Raises:
        UsageError: a file is given in place of a run directory.
        IncompatibleError: there is no complete capture.

    """
    place = parse_location(run)
    if isinstance(place, Path) and place.is_file():
        hint = "capture it with --positions pooled into a run directory of its own, and give that"
        raise UsageError("--invariant-to", "the run directory of captured twins", f"the file {run}", hint)
    return open_capture(place).lineage.digest


def style_sentence(style: Style) -> str:
    """Say what is taken out, and what the trial on training prompts has shown."""
    facts = style.facts
    first, chosen = (
        next(trial for trial in facts["tried"] if trial["directions"] == size)
        for size in (0, facts["directions"])
    )
    before, after = (min(trial["rejected_styled"], trial["chosen_styled"]) for trial in (first, chosen))
    return (
        f"{facts['directions']} directions of style per layer are taken out, by {facts['twins']:,} twins: "
        f"on folds of the training prompts a probe has {after:.1%} of restyled pairs right "
        f"({before:.1%} before) and {chosen['clean']:.1%} of the pairs as they are ({first['clean']:.1%})"
    )


def find_style(
    run: str, capture: ActivationsReader, split: Split, layers: tuple[int, ...], pool: str, seed: int
) -> Style:
    """Choose how many directions of style to take out, and return them.

    Per layer the directions are the mean difference of the twins and the leading principal components of the
    differences around it; `try_sizes` and `best_size` choose their number.

    Args:
        run: the run directory of the twins' capture.
        capture: the activations of the preference pairs.
        split: the preference pairs; only training pairs are read.
        layers: the layers of the directions.
        pool: the pooling of the reward model; twins are compared under it and under the mean.
        seed: seed of the folds.

    Raises:
        IncompatibleError: the twins were captured with another model, template or type, or lack a layer.
        BadInputError: there are too few prompts of twins or of training pairs for the folds.

    """
    twins = open_capture(parse_location(run))
    _check_same_model(twins, capture, layers)
    poolings = dict.fromkeys(("mean", *POOLINGS[pool]))
    pairs = split_pairs(twins, 0.0, seed)
    differences = {
        layer: np.concatenate([_differences(twins, layer, pooling, pairs) for pooling in poolings])
        for layer in layers
    }
    count = len(pairs.pairs)
    trial = Twins({layer: values[:count] for layer, values in differences.items()}, pairs.groups)
    few = split.subset(np.flatnonzero(~split.validation)).subsample(DENSE_PAIRS, seed)
    vectors = {layer: projections(capture, (layer,), "mean", None, few.rows) for layer in layers}
    tried = try_sizes(vectors, few.pairs, few.groups, trial, seed)
    size = best_size(tried)
    facts = {
        "run": run,
        "digest": twins.lineage.digest,
        "twins": count,
        "directions": size,
        "tried": [{"directions": directions, **found._asdict()} for directions, found in tried.items()],
    }
    return Style({layer: style_basis(values, size) for layer, values in differences.items()}, facts)


def _differences(
    twins: ActivationsReader, layer: int, pooling: str, pairs: Split
) -> Float32[np.ndarray, "twins d_in"]:
    """Return the first less the second response of every pair of twins, pooled."""
    vectors = projections(twins, (layer,), pooling, None, pairs.rows)
    return vectors[pairs.pairs[:, 0]] - vectors[pairs.pairs[:, 1]]


def _check_same_model(twins: ActivationsReader, capture: ActivationsReader, layers: tuple[int, ...]) -> None:
    """Check that the vectors of the twins are those of the same model, read in the same way.

    Raises:
        IncompatibleError: a setting differs, or a layer is missing.

    """
    theirs, ours = twins.plan.settings, capture.plan.settings
    hint = "capture the twins with the options of the preference pairs"
    for name in SAME:
        expected, found = getattr(ours, name), getattr(theirs, name)
        if expected != found:
            raise IncompatibleError(f"{twins.root}: {name}", str(expected), str(found), hint)
    missing = sorted(set(layers) - set(theirs.layers))
    if missing:
        have = ", ".join(map(str, theirs.layers))
        raise IncompatibleError(f"{twins.root}: layers", ", ".join(map(str, layers)), have, hint)


def without_style(
    rows: Mapping[int, Float32[np.ndarray, "rows d_in"]], style: Style | None
) -> dict[int, Float32[np.ndarray, "rows d_in"]]:
    """Return directions without their part in the subspace of style; a projection on them sees none of it."""
    if style is None:
        return dict(rows)
    return {
        layer: np.ascontiguousarray(values - (values @ style.bases[layer].T) @ style.bases[layer], np.float32)
        for layer, values in rows.items()
    }


def blind_to_style(head: HeadArrays, style: Style | None, layers: tuple[int, ...]) -> HeadArrays:
    """Return a linear head on pooled vectors that gives what the head gives to vectors without style.

    The weights carry the standardisation afterwards, since taking a subspace out mixes the coordinates.
    """
    if style is None:
        return head
    weight = head.weights["weight"].astype(np.float64) / head.std
    bias = head.weights["bias"] - float(head.mean.astype(np.float64) @ weight)
    parts = np.split(weight, len(layers))
    blind = [
        part - (part @ style.bases[layer].T) @ style.bases[layer]
        for layer, part in zip(layers, parts, strict=True)
    ]
    whole = np.concatenate(blind).astype(np.float32)
    tensors = {**head.weights, "weight": whole, "bias": bias.astype(np.float32)}
    return replace(head, mean=np.zeros_like(whole), std=np.ones_like(whole), weights=tensors)
