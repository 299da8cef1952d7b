"""Accuracy of methods on prompts they have not seen: grouped folds, all chosen inside the training folds.

Axes: `m` pairs of a run.
"""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64

from sparserm_cli.config import Progress
from sparserm_cli.data.splits import grouped_folds, validation_mask
from sparserm_cli.study.methods import Method, Training, fit_method
from sparserm_cli.study.sample import Sample
from sparserm_cli.study.statistics import Difference, PairAccuracy, difference, fold_spread, pair_accuracy

FOLDS = 5
VAL_FRACTION = 0.2
"""Share of the training prompts that chooses penalties and stops training."""


class Protocol(NamedTuple):
    """How methods are tried."""

    folds: int = FOLDS
    """Parts of the prompts, each tested once."""
    seed: int = 0
    """Of folds, validation prompts and everything random in a fit."""
    train_pairs: int | None = None
    """Most pairs in training and validation together, drawn at random; None for all."""
    flipped: float = 0.0
    """Share of those pairs whose labels are swapped."""


class Result(NamedTuple):
    """What one method has reached."""

    method: Method
    """The method."""
    accuracy: PairAccuracy
    """Over all test pairs."""
    fold_sd: float
    """Standard deviation of the accuracy between folds; NaN for a single test."""
    parameters: int
    """Numbers fitted by the head."""
    seconds: float
    """Of fitting, all folds."""
    margins: Float64[np.ndarray, " m"]
    """Chosen less rejected score of every test pair, by the fold that tested it."""
    against: Difference | None = None
    """The reference method's accuracy less this one's, on the same pairs."""

    def to_json(self) -> dict[str, Any]:
        """Return it without the margins."""
        told = {name: value for name, value in self._asdict().items() if name != "margins"}
        told["method"] = vars(self.method)
        told["accuracy"] = self.accuracy._asdict()
        told["against"] = None if self.against is None else self.against._asdict()
        return {**told, "fold_sd": None if np.isnan(self.fold_sd) else self.fold_sd}


def crossvalidate(
    sample: Sample,
    methods: Sequence[Method],
    protocol: Protocol = Protocol(),  # noqa: B008 - a NamedTuple cannot change
    *,
    progress: Progress | None = None,
) -> list[Result]:
    """Try methods on the same folds.

    Args:
        sample: the run.
        methods: what to try.
        protocol: how.
        progress: called with fits done and fits in all.

    Raises:
        BadInputError: fewer prompts than folds.
        UsageError: too few latents speak for a side.

    """
    fold = grouped_folds(sample.groups, protocol.folds, protocol.seed)
    margins = np.zeros((len(methods), len(sample.pairs)))
    seconds, parameters = np.zeros(len(methods)), [0] * len(methods)
    for tested in range(protocol.folds):
        training = training_of(sample, np.flatnonzero(fold != tested), protocol)
        test = fold == tested
        for number, method in enumerate(methods):
            begun = time.monotonic()
            scorer = fit_method(method, training)
            seconds[number] += time.monotonic() - begun
            parameters[number] = scorer.parameters
            scores = scorer.score(sample)[sample.pairs[test]]
            margins[number, test] = scores[:, 0] - scores[:, 1]
            if progress:
                progress(tested * len(methods) + number + 1, protocol.folds * len(methods))
    return [
        result(method, margins[number], sample, parameters[number], float(seconds[number]), fold)
        for number, method in enumerate(methods)
    ]


def transfer(
    source: Sample,
    target: Sample,
    methods: Sequence[Method],
    protocol: Protocol = Protocol(),  # noqa: B008
) -> list[Result]:
    """Fit methods on one run and test them on another whose prompts they share none with."""
    training = training_of(source, np.arange(len(source.pairs)), protocol)
    results = []
    for method in methods:
        begun = time.monotonic()
        scorer = fit_method(method, training)
        scores = scorer.score(target)[target.pairs]
        seconds = time.monotonic() - begun
        results.append(result(method, scores[:, 0] - scores[:, 1], target, scorer.parameters, seconds))
    return results


def training_of(sample: Sample, kept: Int64[np.ndarray, " kept"], protocol: Protocol) -> Training:
    """Return what methods may learn from: some pairs, fewer and flipped if the protocol says so.

    The validation prompts are chosen by their own hash, so a larger training set keeps the smaller one's.
    """
    generator = np.random.default_rng(protocol.seed)
    if protocol.train_pairs is not None and protocol.train_pairs < len(kept):
        kept = np.sort(generator.choice(kept, protocol.train_pairs, replace=False))
    pairs = sample.pairs[kept]
    flipped: Bool[np.ndarray, " kept"] = generator.random(len(kept)) < protocol.flipped
    pairs = np.where(flipped[:, None], pairs[:, ::-1], pairs)
    validation = validation_mask(sample.groups[kept], VAL_FRACTION, protocol.seed + 1)
    return Training(sample, pairs, validation, protocol.seed)


def result(
    method: Method,
    margins: Float64[np.ndarray, " m"],
    sample: Sample,
    parameters: int,
    seconds: float,
    fold: Int64[np.ndarray, " m"] | None = None,
) -> Result:
    """Return the figures of a method from its margins; chance has an accuracy of a half by definition."""
    if method.kind == "chance":
        half = PairAccuracy(0.5, 0.5, 0.5, len(margins), len(np.unique(sample.groups)), 0)
        return Result(method, half, 0.0, 0, 0.0, margins)
    spread = float("nan") if fold is None else fold_spread(margins > 0, fold)
    return Result(method, pair_accuracy(margins, sample.groups), spread, parameters, seconds, margins)


def compared(results: Sequence[Result], reference: Result, sample: Sample) -> list[Result]:
    """Add to each result how far the reference is ahead of it, pair by pair."""
    return [
        one
        if one is reference or one.method.kind == "chance"
        else one._replace(against=difference(reference.margins, one.margins, sample.groups))
        for one in results
    ]
