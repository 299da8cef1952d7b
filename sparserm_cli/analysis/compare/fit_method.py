"""Fit one of the compared methods on training pairs.

Axes: `n` responses, `m` pairs. All steps that use labels (choice among settings, standardisation, fit) use
training pairs only.
"""

from dataclasses import replace

import numpy as np
from jaxtyping import Float64, Int64

from sparserm_cli.analysis.compare.methods import KINDS, LATENTS, Method, Scorer, Training, vectors_of
from sparserm_cli.analysis.compare.run_sample import Sample
from sparserm_cli.models.head.baselines import difference_of_means, length_preference
from sparserm_cli.models.head.heads import fit_head, scores_of
from sparserm_cli.models.head.pair_data import PairData, standardisation
from sparserm_cli.stages.fit.model_selection import INNER_PAIRS, accuracy_by_folds
from sparserm_cli.store.artifacts.penalties import penalties_of
from sparserm_cli.store.artifacts.reward_checks import POOLINGS


def fit_method(method: Method, training: Training) -> Scorer:
    """Fit a method on training pairs."""
    if method.among:
        best = max(method.among, key=lambda setting: inner_accuracy(setting, training))
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
        from sparserm_cli.analysis.compare.lora import fit_lora  # trl takes seconds to load

        return fit_lora(training)
    project = KINDS[method.kind](method, training)
    values = project(training.sample)
    mean, std = standardisation(values, training.rows)
    used, places = np.unique(training.pairs, return_inverse=True)
    x = (values[used] - mean) / std
    weight = np.ones(len(training.pairs), np.float32)
    views = len(training.sample.layers) * (1 if method.kind in LATENTS else len(POOLINGS[method.pool]))
    data = PairData(x, places.reshape(-1, 2), training.validation, weight, views, training.groups)
    fitted = fit_head(data, method.head, method.loss, plain=method.plain, seed=training.seed)

    def score(sample: Sample) -> Float64[np.ndarray, " n"]:
        return scores_of(fitted.weights, (project(sample) - mean) / std).astype(np.float64)

    parameters = sum(array.size for array in fitted.weights.values())
    return Scorer(score, parameters, penalties=tuple(penalties_of(fitted.facts)))


def inner_accuracy(method: Method, training: Training) -> float:
    """Return the accuracy of a method on folds of the prompts of at most INNER_PAIRS training pairs."""
    if len(training.pairs) > INNER_PAIRS:
        drawn = np.random.default_rng(training.seed).choice(len(training.pairs), INNER_PAIRS, replace=False)
        training = training.only(drawn)

    def scores(learned: Int64[np.ndarray, " learned"]) -> Float64[np.ndarray, " n"]:
        return fit_method(method, training.only(learned)).score(training.sample)

    return accuracy_by_folds(scores, training.pairs, training.groups, training.seed)


def _of_layers(method: Method, layers: tuple[int, ...], training: Training) -> Scorer:
    """Fit a method on its layers."""
    part = training._replace(sample=training.sample.only(layers))
    fitted = fit_method(replace(method, layers=None), part)
    return fitted._replace(score=lambda sample: fitted.score(sample.only(layers)))


def _by_length(training: Training) -> Scorer:
    """Prefer the longer response if the training pairs do, otherwise the shorter one."""
    preference = float(length_preference(training.sample.lengths, training.pairs)) or 1.0
    return Scorer(lambda sample: preference * sample.lengths.astype(np.float64), 1)


def _difference_of_means(method: Method, training: Training) -> Scorer:
    """Project on the mean chosen vector minus the mean rejected vector."""
    vectors = vectors_of(training.sample, method.pool)
    pairs = training.pairs[~training.validation]
    weight = difference_of_means(vectors, pairs)
    return Scorer(lambda sample: (vectors_of(sample, method.pool) @ weight).astype(np.float64), len(weight))
