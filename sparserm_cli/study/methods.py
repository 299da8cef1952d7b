"""The ways of turning pooled vectors into a score that are compared: SparseRM, and what it must beat.

Axes: `n` responses, `m` pairs, `p` numbers a response, `d_in` width of the residual stream. Everything that
looks at labels (selection, components, standardisation, fit) looks at training pairs alone.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64, UInt64

from sparserm_cli.data.splits import grouped_folds, validation_mask
from sparserm_cli.models.fitting import PairData, scores_of, standardisation
from sparserm_cli.models.mlp import fit_head
from sparserm_cli.stages.measures import measure
from sparserm_cli.stages.selection import choose, random_directions
from sparserm_cli.stages.tally import FOLDS, make_cohort
from sparserm_cli.store.frequency import Unit
from sparserm_cli.store.reward import POOLINGS
from sparserm_cli.study.sample import Sample, count

VAL_FRACTION = 0.2
"""Share of the training prompts that chooses penalties and stops training."""
INNER_FOLDS = 3
"""Parts of the training prompts by which one of several methods is chosen."""
INNER_PAIRS = 3000
"""Most pairs, drawn at random, that choose."""


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


class Scorer(NamedTuple):
    """A fitted method."""

    score: Callable[[Sample], Float64[np.ndarray, " n"]]
    """Scores every response of a run."""
    parameters: int
    """Numbers that were fitted to the labels by the head."""
    chosen: str = ""
    """Name of the method that was chosen, where there was a choice."""


Projection = Callable[[Sample], Float32[np.ndarray, "n p"]]


def fit_method(method: Method, training: Training) -> Scorer:
    """Fit a method on training pairs."""
    if method.among:
        best = max(method.among, key=lambda one: inner_accuracy(one, training))
        return fit_method(best, training)._replace(chosen=best.name)
    if method.layers is not None:
        return _of_layers(method, method.layers, training)
    if method.kind == "chance":
        return Scorer(lambda sample: np.zeros(len(sample.lengths)), 0)
    if method.kind == "length":
        return _by_length(training)
    if method.kind == "means":
        return _difference_of_means(method, training)
    if method.kind == "lora":
        from sparserm_cli.study.lora import fit_lora  # trl takes seconds to load

        return fit_lora(training)
    project = KINDS[method.kind](method, training)
    values = project(training.sample)
    mean, std = standardisation(values, training.rows)
    used, places = np.unique(training.pairs, return_inverse=True)
    x = (values[used] - mean) / std
    weight = np.ones(len(training.pairs), np.float32)
    views = len(training.sample.layers) * (1 if method.kind in LATENTS else len(POOLINGS[method.pool]))
    data = PairData(x, places.reshape(-1, 2), training.validation, weight, views)
    fitted = fit_head(data, method.head, method.loss, seed=training.seed)

    def score(sample: Sample) -> Float64[np.ndarray, " n"]:
        return scores_of(fitted.weights, (project(sample) - mean) / std).astype(np.float64)

    return Scorer(score, sum(one.size for one in fitted.weights.values()))


def inner_accuracy(method: Method, training: Training) -> float:
    """Return the accuracy of a method on folds of the training prompts."""
    kept = np.arange(len(training.pairs))
    if len(kept) > INNER_PAIRS:
        kept = np.random.default_rng(training.seed).choice(kept, INNER_PAIRS, replace=False)
    fold = grouped_folds(training.groups[kept], INNER_FOLDS, training.seed)
    right = 0
    for one in range(INNER_FOLDS):
        train, test = kept[fold != one], kept[fold == one]
        inner = training._replace(pairs=training.pairs[train], groups=training.groups[train])
        scores = fit_method(method, inner).score(training.sample)[training.pairs[test]]
        right += int((scores[:, 0] > scores[:, 1]).sum())
    return right / len(kept)


def _of_layers(method: Method, layers: tuple[int, ...], training: Training) -> Scorer:
    """Fit a method on some of the layers."""
    part = training._replace(sample=training.sample.only(layers))
    fitted = fit_method(replace(method, layers=None), part)
    return fitted._replace(score=lambda sample: fitted.score(sample.only(layers)))


def _by_length(training: Training) -> Scorer:
    """Prefer the longer response if the training pairs do, else the shorter."""
    lengths = training.sample.lengths[training.pairs]
    preference = float(np.sign(np.sign(lengths[:, 0] - lengths[:, 1]).sum())) or 1.0
    return Scorer(lambda sample: preference * sample.lengths.astype(np.float64), 1)


def _difference_of_means(method: Method, training: Training) -> Scorer:
    """Project on the mean chosen vector less the mean rejected one."""
    vectors = _vectors(training.sample, method.pool)
    pairs = training.pairs[~training.validation]
    weight = (vectors[pairs[:, 0]] - vectors[pairs[:, 1]]).mean(axis=0)
    return Scorer(lambda sample: (_vectors(sample, method.pool) @ weight).astype(np.float64), len(weight))


def _vectors(sample: Sample, pool: str) -> Float32[np.ndarray, "n p"]:
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
        counts = count(sample.latents[layer], cohort, sample.lengths, method.unit)
        chosen[layer] = choose(
            measure(counts),
            counts.classed_total.sum(axis=1),
            method.top_k or 0,
            method.by,
            rows=partial(sample.decoder, layer),
            seed=training.seed,
            where=f"layer {layer}",
        ).feature
    return chosen


def _selected(method: Method, training: Training) -> Projection:
    """Project on the decoder rows of the selected latents: SparseRM."""
    chosen = _selected_latents(method, training)
    return _on({layer: training.sample.decoder(layer, one) for layer, one in chosen.items()}, method.pool)


def _random_latents(method: Method, training: Training) -> Projection:
    """Project on the decoder rows of latents that fire, chosen at random."""
    return _selected(replace(method, by="random-latents"), training)


def _random_directions(method: Method, training: Training) -> Projection:
    """Project on random directions."""
    rows = {}
    for layer in training.sample.layers:
        d_in = training.sample.pooled[layer]["mean"].shape[1]
        rows[layer] = random_directions(2 * (method.top_k or 0), d_in, training.seed + 1000 * (layer + 1))
    return _on(rows, method.pool)


def _components(method: Method, training: Training) -> Projection:
    """Project on the principal components of the training responses' vectors."""
    rows = {}
    for layer in training.sample.layers:
        taken = _pooled_once(training.sample, layer, method.pool)[training.rows]
        rows[layer] = _leading(taken - taken.mean(axis=0), 2 * (method.top_k or 0))
    return _on(rows, method.pool)


def _pair_components(method: Method, training: Training) -> Projection:
    """Project on the principal components of chosen less rejected vectors."""
    rows = {}
    pairs = training.pairs[~training.validation]
    for layer in training.sample.layers:
        vectors = _pooled_once(training.sample, layer, method.pool)
        rows[layer] = _leading(vectors[pairs[:, 0]] - vectors[pairs[:, 1]], 2 * (method.top_k or 0))
    return _on(rows, method.pool)


def _pooled_once(sample: Sample, layer: int, pool: str) -> Float32[np.ndarray, "n d_in"]:
    """Return the pooled vectors that components are taken of."""
    return sample.pooled[layer][POOLINGS[pool][0]]


def _leading(vectors: Float32[np.ndarray, "rows d_in"], most: int) -> Float32[np.ndarray, "components d_in"]:
    """Return the leading eigenvectors of the second moments."""
    moments = (vectors.T @ vectors).astype(np.float64)
    _, components = np.linalg.eigh(moments)
    return np.ascontiguousarray(components[:, ::-1][:, :most].T, np.float32)


def _latent_values(method: Method, training: Training, what: str) -> Projection:
    """Give the head the selected latents' own values instead of projections."""
    chosen = _selected_latents(method, training)

    def project(sample: Sample) -> Float32[np.ndarray, "n p"]:
        parts = [getattr(sample.latents[layer], what)[:, one].toarray() for layer, one in chosen.items()]
        return np.concatenate(parts, axis=1).astype(np.float32)

    return project


def _dense(method: Method, _training: Training) -> Projection:
    """Give the head the whole pooled vectors."""
    return lambda sample: _vectors(sample, method.pool)


KINDS: dict[str, Callable[[Method, Training], Projection]] = {
    "selected": _selected,
    "random-directions": _random_directions,
    "random-latents": _random_latents,
    "components": _components,
    "pair-components": _pair_components,
    "latent-means": partial(_latent_values, what="mean"),
    "latent-maxima": partial(_latent_values, what="largest"),
    "dense": _dense,
}
"""What a head can be given."""
LATENTS = ("latent-means", "latent-maxima")
"""Kinds that do not pool: their numbers are of whole responses."""
