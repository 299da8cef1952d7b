"""The compared methods: SparseRM and its baselines, each defined by the features that it gives a head.

Axes: `n` responses, `m` pairs, `p` features per response, `d_in` width of the residual stream. All steps that
use labels (selection, components) use training pairs only.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64, UInt64

from sparserm_cli.analysis.compare.run_sample import Sample, count
from sparserm_cli.data.splits import validation_mask
from sparserm_cli.models.head.baselines import (
    BASELINES,
    Baseline,
    LabelledVectors,
    layer_seed,
    leading,
    random_directions,
)
from sparserm_cli.stages.frequency.counted_responses import FOLDS, class_responses
from sparserm_cli.stages.frequency.latent_statistics import statistics_of
from sparserm_cli.stages.select import orthogonal
from sparserm_cli.stages.select.rankings import Candidates, choose
from sparserm_cli.statistics.pair_moments import Moments, moments
from sparserm_cli.store.artifacts.frequency import Unit
from sparserm_cli.store.artifacts.reward_checks import POOLINGS


class Scorer(NamedTuple):
    """A fitted method."""

    score: Callable[[Sample], Float64[np.ndarray, " n"]]
    """The function that scores every response of a run."""
    parameters: int
    """Number of parameters that the head fitted to the labels."""
    chosen: str = ""
    """Name of the method that was chosen, where there was a choice."""
    penalties: tuple[Mapping[str, Any], ...] = ()
    """Whitening and strength of the penalty that the fit has chosen, for each view."""


VAL_FRACTION = 0.2
"""Share of the training prompts by which penalties are chosen and training is stopped."""


@dataclass(frozen=True)
class Method:
    """A method with its options."""

    name: str
    """The name of the method in tables."""
    kind: str = "selected"
    """The features of the head: a key of `KINDS`; means, length, lora and chance have no head."""
    top_k: int | None = 64
    """Directions per side; None means that all features are used."""
    by: str = "difference"
    """The statistic by which latents are selected."""
    unit: Unit = "token"
    """Whether firing rates are counted per token or per response."""
    pool: str = "mean"
    """The pooling of a response's tokens: mean, last or both."""
    head: str = "linear"
    """The head: linear or mlp."""
    loss: str = "bt"
    """The loss of the head: margin, bt or bce."""
    plain: bool = False
    """Whether the hidden layer is trained from random weights, as in the paper."""
    layers: tuple[int, ...] | None = None
    """The layers in use; None means all layers."""
    among: tuple["Method", ...] = ()
    """Candidate methods, of which the best in folds of the training prompts is fitted instead."""


class Training(NamedTuple):
    """The training data of a method."""

    sample: Sample
    """The run that holds the pairs."""
    pairs: Int64[np.ndarray, "m 2"]
    """Training pairs, including the validation pairs."""
    groups: UInt64[np.ndarray, " m"]
    """The key of the prompt of each pair."""
    seed: int
    """Seed of the validation prompts, the inner folds and all randomness in a fit."""

    @property
    def validation(self) -> Bool[np.ndarray, " m"]:
        """Mask of the validation pairs; it depends only on prompt hashes, so added data do not change it."""
        return validation_mask(self.groups, VAL_FRACTION, self.seed + 1)

    @property
    def rows(self) -> Int64[np.ndarray, " rows"]:
        """Indices of the responses of the pairs that are not for validation."""
        return np.unique(self.pairs[~self.validation])

    def only(self, kept: Int64[np.ndarray, " kept"]) -> "Training":
        """Return the training data of some of the pairs."""
        return self._replace(pairs=self.pairs[kept], groups=self.groups[kept])


Projection = Callable[[Sample], Float32[np.ndarray, "n p"]]


def vectors_of(sample: Sample, pool: str) -> Float32[np.ndarray, "n p"]:
    """Return the pooled vectors of all layers side by side."""
    parts = [sample.pooled[layer][name] for layer in sample.layers for name in POOLINGS[pool]]
    return np.concatenate(parts, axis=1)


def _on(rows: dict[int, np.ndarray], pool: str) -> Projection:
    """Return the function that projects on the directions of each layer."""

    def project(sample: Sample) -> Float32[np.ndarray, "n p"]:
        parts = [
            sample.pooled[layer][name] @ rows[layer].T for layer in sample.layers for name in POOLINGS[pool]
        ]
        return np.concatenate(parts, axis=1)

    return project


def _selected_latents(method: Method, training: Training) -> dict[int, np.ndarray]:
    """Select latents as `frequency` and `select` do, on the training pairs without the validation pairs."""
    sample = training.sample
    pairs = training.pairs[~training.validation]
    group = np.zeros(len(sample.lengths), np.uint64)
    group[sample.pairs.reshape(-1)] = np.repeat(sample.groups, 2)
    _, rank = np.unique(group, return_inverse=True)
    counted = class_responses(sample.lengths, group, rank.reshape(-1) % FOLDS, pairs)
    chosen = {}
    for layer in sample.layers:
        counts = count(sample.latents[layer], counted, method.unit)
        candidates = Candidates(
            statistics_of(counts),
            counts.classed_total.sum(axis=1),
            method.top_k or 0,
            rows=partial(sample.decoder, layer),
            of_pairs=partial(_moments, sample, layer, pairs),
            seed=training.seed,
            where=f"layer {layer}",
        )
        chosen[layer] = choose(candidates, method.by).feature
    return chosen


def _selected(method: Method, training: Training) -> Projection:
    """Project on the decoder rows of the selected latents, as SparseRM does."""
    chosen = _selected_latents(method, training)
    return _on(
        {layer: training.sample.decoder(layer, latents) for layer, latents in chosen.items()}, method.pool
    )


def _random_latents(method: Method, training: Training) -> Projection:
    """Project on the decoder rows of firing latents that are drawn at random."""
    return _selected(replace(method, by="random-latents"), training)


def _baseline(method: Method, training: Training, baseline: Baseline) -> Projection:
    """Project on the directions of a baseline."""
    sample, pairs = training.sample, training.pairs[~training.validation]
    given = {
        layer: LabelledVectors(_pooled_once(sample, layer, method.pool), pairs) for layer in sample.layers
    }
    counts = dict.fromkeys(sample.layers, 2 * (method.top_k or 0))
    return _on(baseline.of_layers(given, counts, training.seed), method.pool)


def _drawn(training: Training, layer: int, count: int) -> Float32[np.ndarray, "directions d_in"]:
    """Return random directions of a layer."""
    d_in = training.sample.pooled[layer]["mean"].shape[1]
    return random_directions(count, d_in, layer_seed(training.seed, layer))


def _random_in_turn(method: Method, training: Training) -> Projection:
    """Project on random directions, forward-selected among as many as the SAE has latents."""
    latents = training.sample.latents
    return _in_turn(
        method, training, lambda layer, _: _drawn(training, layer, latents[layer].tokens.shape[1])
    )


def _components_in_turn(method: Method, training: Training) -> Projection:
    """Project on principal components of the pairs, forward-selected among all of them."""
    return _in_turn(method, training, lambda _, moments: leading(moments.second, len(moments.mean)))


def _in_turn(
    method: Method,
    training: Training,
    pool_of: Callable[[int, Moments], Float32[np.ndarray, "pool d_in"]],
) -> Projection:
    """Select among any directions of a layer as `forward` selects among latents, but without sides."""
    rows = {}
    pairs = training.pairs[~training.validation]
    for layer in training.sample.layers:
        moments = _moments(training.sample, layer, pairs)
        pool = pool_of(layer, moments)
        rows[layer] = pool[
            orthogonal.orthogonal_least_squares(
                pool, None, min(method.top_k or 0, len(pool) // 2), moments
            ).place
        ]
    return _on(rows, method.pool)


def _moments(sample: Sample, layer: int, pairs: Int64[np.ndarray, "m 2"]) -> Moments:
    """Return the moments on which forward selection is based."""
    return moments(sample.pooled[layer]["mean"], pairs)


def _pooled_once(sample: Sample, layer: int, pool: str) -> Float32[np.ndarray, "n d_in"]:
    """Return the pooled vectors from which components are computed."""
    return sample.pooled[layer][POOLINGS[pool][0]]


def _latent_values(method: Method, training: Training, what: str) -> Projection:
    """Use the selected latents' own values as features instead of projections."""
    chosen = _selected_latents(method, training)

    def project(sample: Sample) -> Float32[np.ndarray, "n p"]:
        parts = [
            getattr(sample.latents[layer], what)[:, latents].toarray() for layer, latents in chosen.items()
        ]
        return np.concatenate(parts, axis=1).astype(np.float32)

    return project


def _dense(method: Method, _training: Training) -> Projection:
    """Use the whole pooled vectors as features."""
    return lambda sample: vectors_of(sample, method.pool)


KINDS: dict[str, Callable[[Method, Training], Projection]] = {
    "selected": _selected,
    "random-latents": _random_latents,
    **{each.kind: partial(_baseline, baseline=each) for each in BASELINES.values()},
    "random-in-turn": _random_in_turn,
    "components-in-turn": _components_in_turn,
    "latent-means": partial(_latent_values, what="mean"),
    "latent-maxima": partial(_latent_values, what="largest"),
    "dense": _dense,
}
"""The function that makes the features of each kind."""


LATENTS = ("latent-means", "latent-maxima")
"""Kinds without pooling, whose features describe whole responses."""
