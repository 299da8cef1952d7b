"""What is compared: SparseRM and what it must beat, each by the numbers that it gives a head.

Axes: `n` responses, `m` pairs, `p` numbers a response, `d_in` width of the residual stream. Everything that
looks at labels (selection, components) looks at training pairs alone.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64, UInt64

from sparserm_cli.analysis.compare.run_sample import Sample, count
from sparserm_cli.data.splits import validation_mask
from sparserm_cli.models.head.baselines import (
    BASELINES,
    Draw,
    LabelledVectors,
    layer_seed,
    leading,
    random_directions,
)
from sparserm_cli.stages.frequency.cohort import FOLDS, make_cohort
from sparserm_cli.stages.frequency.latent_statistics import measure
from sparserm_cli.stages.select import orthogonal
from sparserm_cli.stages.select.rankings import Candidates, choose
from sparserm_cli.statistics.pair_moments import Moments, moments
from sparserm_cli.store.artifacts.frequency import Unit
from sparserm_cli.store.artifacts.reward_checks import POOLINGS


class Scorer(NamedTuple):
    """A fitted method."""

    score: Callable[[Sample], Float64[np.ndarray, " n"]]
    """Scores every response of a run."""
    parameters: int
    """Numbers that were fitted to the labels by the head."""
    chosen: str = ""
    """Name of the method that was chosen, where there was a choice."""


VAL_FRACTION = 0.2
"""Share of the training prompts that chooses penalties and stops training."""


@dataclass(frozen=True)
class Method:
    """One way of scoring."""

    name: str
    """As tables call it."""
    kind: str = "selected"
    """Which numbers the head sees: a key of `KINDS`; means, length, lora and chance have no head."""
    top_k: int | None = 64
    """Directions a side; None for all there is."""
    by: str = "difference"
    """What selects latents."""
    unit: Unit = "token"
    """What their rates are shares of."""
    pool: str = "mean"
    """mean, last or both."""
    head: str = "linear"
    """linear or mlp."""
    loss: str = "bt"
    """margin, bt or bce."""
    layers: tuple[int, ...] | None = None
    """Layers used; None for all there are."""
    among: tuple["Method", ...] = ()
    """What is fitted instead: the best of these in folds of the training prompts."""


class Training(NamedTuple):
    """What a method may learn from."""

    sample: Sample
    """The run."""
    pairs: Int64[np.ndarray, "m 2"]
    """Training pairs, with those that choose and stop."""
    groups: UInt64[np.ndarray, " m"]
    """Prompt of each pair."""
    seed: int
    """Of the validation prompts, inner folds and everything random in a fit."""

    @property
    def validation(self) -> Bool[np.ndarray, " m"]:
        """The latter; a prompt is chosen by its own hash, so a larger set keeps the smaller one's."""
        return validation_mask(self.groups, VAL_FRACTION, self.seed + 1)

    @property
    def rows(self) -> Int64[np.ndarray, " rows"]:
        """Responses of the pairs that train."""
        return np.unique(self.pairs[~self.validation])

    def only(self, kept: Int64[np.ndarray, " kept"]) -> "Training":
        """Return what may be learned from some of the pairs."""
        return self._replace(pairs=self.pairs[kept], groups=self.groups[kept])


Projection = Callable[[Sample], Float32[np.ndarray, "n p"]]


def vectors_of(sample: Sample, pool: str) -> Float32[np.ndarray, "n p"]:
    """Return the pooled vectors of all layers side by side."""
    parts = [sample.pooled[layer][name] for layer in sample.layers for name in POOLINGS[pool]]
    return np.concatenate(parts, axis=1)


def _on(rows: dict[int, np.ndarray], pool: str) -> Projection:
    """Return the projection on directions of each layer."""

    def project(sample: Sample) -> Float32[np.ndarray, "n p"]:
        parts = [
            sample.pooled[layer][name] @ rows[layer].T for layer in sample.layers for name in POOLINGS[pool]
        ]
        return np.concatenate(parts, axis=1)

    return project


def _selected_latents(method: Method, training: Training) -> dict[int, np.ndarray]:
    """Choose latents as `frequency` and `select` do, on the pairs that train."""
    sample = training.sample
    pairs = training.pairs[~training.validation]
    group = np.zeros(len(sample.lengths), np.uint64)
    group[sample.pairs.reshape(-1)] = np.repeat(sample.groups, 2)
    _, rank = np.unique(group, return_inverse=True)
    cohort = make_cohort(sample.lengths, group, rank.reshape(-1) % FOLDS, pairs)
    chosen = {}
    for layer in sample.layers:
        counts = count(sample.latents[layer], cohort, method.unit)
        candidates = Candidates(
            measure(counts),
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
    """Project on the decoder rows of the selected latents: SparseRM."""
    chosen = _selected_latents(method, training)
    return _on(
        {layer: training.sample.decoder(layer, latents) for layer, latents in chosen.items()}, method.pool
    )


def _random_latents(method: Method, training: Training) -> Projection:
    """Project on the decoder rows of latents that fire, chosen at random."""
    return _selected(replace(method, by="random-latents"), training)


def _baseline(method: Method, training: Training, draw: Draw) -> Projection:
    """Project on the directions of a baseline."""
    sample, pairs = training.sample, training.pairs[~training.validation]
    rows = {}
    for layer in sample.layers:
        given = LabelledVectors(_pooled_once(sample, layer, method.pool), pairs)
        rows[layer] = draw(given, 2 * (method.top_k or 0), layer_seed(training.seed, layer))
    return _on(rows, method.pool)


def _drawn(training: Training, layer: int, count: int) -> Float32[np.ndarray, "directions d_in"]:
    """Return random directions of a layer."""
    d_in = training.sample.pooled[layer]["mean"].shape[1]
    return random_directions(count, d_in, layer_seed(training.seed, layer))


def _random_in_turn(method: Method, training: Training) -> Projection:
    """Project on random directions, chosen in turn among as many as the SAE has latents."""
    latents = training.sample.latents
    return _in_turn(
        method, training, lambda layer, _: _drawn(training, layer, latents[layer].tokens.shape[1])
    )


def _components_in_turn(method: Method, training: Training) -> Projection:
    """Project on principal components of the pairs, chosen in turn among all of them."""
    return _in_turn(method, training, lambda _, moments: leading(moments.second, len(moments.mean)))


def _in_turn(
    method: Method,
    training: Training,
    pool_of: Callable[[int, Moments], Float32[np.ndarray, "pool d_in"]],
) -> Projection:
    """Choose as `forward` does among latents, but among any directions of a layer, which have no sides."""
    rows = {}
    pairs = training.pairs[~training.validation]
    for layer in training.sample.layers:
        moments = _moments(training.sample, layer, pairs)
        pool = pool_of(layer, moments)
        rows[layer] = pool[
            orthogonal.forward(pool, None, min(method.top_k or 0, len(pool) // 2), moments).place
        ]
    return _on(rows, method.pool)


def _moments(sample: Sample, layer: int, pairs: Int64[np.ndarray, "m 2"]) -> Moments:
    """Return the moments that `forward` chooses by."""
    return moments(sample.pooled[layer]["mean"], pairs)


def _pooled_once(sample: Sample, layer: int, pool: str) -> Float32[np.ndarray, "n d_in"]:
    """Return the pooled vectors that components are taken of."""
    return sample.pooled[layer][POOLINGS[pool][0]]


def _latent_values(method: Method, training: Training, what: str) -> Projection:
    """Give the head the selected latents' own values instead of projections."""
    chosen = _selected_latents(method, training)

    def project(sample: Sample) -> Float32[np.ndarray, "n p"]:
        parts = [
            getattr(sample.latents[layer], what)[:, latents].toarray() for layer, latents in chosen.items()
        ]
        return np.concatenate(parts, axis=1).astype(np.float32)

    return project


def _dense(method: Method, _training: Training) -> Projection:
    """Give the head the whole pooled vectors."""
    return lambda sample: vectors_of(sample, method.pool)


KINDS: dict[str, Callable[[Method, Training], Projection]] = {
    "selected": _selected,
    "random-latents": _random_latents,
    **{each.kind: partial(_baseline, draw=each.draw) for each in BASELINES.values()},
    "random-in-turn": _random_in_turn,
    "components-in-turn": _components_in_turn,
    "latent-means": partial(_latent_values, what="mean"),
    "latent-maxima": partial(_latent_values, what="largest"),
    "dense": _dense,
}
"""What a head can be given."""


LATENTS = ("latent-means", "latent-maxima")
"""Kinds that do not pool: their numbers are of whole responses."""
