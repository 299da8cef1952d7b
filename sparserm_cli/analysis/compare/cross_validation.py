"""Measure methods on unseen prompts with grouped folds; all choices are made inside the training folds.

Axes: `m` is the number of pairs of a run.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64

from sparserm_cli.analysis.compare.fit_method import fit_method
from sparserm_cli.analysis.compare.methods import Method, Training
from sparserm_cli.analysis.compare.run_sample import Sample
from sparserm_cli.config import Progress
from sparserm_cli.data.splits import grouped_folds
from sparserm_cli.statistics.pair_accuracy import (
    Difference,
    PairAccuracy,
    difference,
    fold_spread,
    pair_accuracy,
)

FOLDS = 5


class Protocol(NamedTuple):
    """The protocol of a measurement."""

    folds: int = FOLDS
    """Number of parts of the prompts; each part is the test set once."""
    seed: int = 0
    """Seed of the folds, the validation prompts and all randomness in a fit."""
    train_pairs: int | None = None
    """Most pairs in training and validation together, drawn at random; None means all."""
    flipped: float = 0.0
    """Share of those pairs whose labels are swapped."""


class Round(NamedTuple):
    """The pairs of one fit and of its test."""

    kept: Int64[np.ndarray, " kept"]
    """Indices of the sample's pairs that are used for training."""
    test: Int64[np.ndarray, " test"]
    """Indices of the target's pairs that are tested."""


class Result(NamedTuple):
    """The result of one method."""

    method: Method
    """The measured method."""
    accuracy: PairAccuracy
    """Accuracy over all test pairs."""
    fold_sd: float
    """Standard deviation of the accuracy between folds; NaN for a single test."""
    parameters: int
    """Number of parameters that the head fits."""
    seconds: float
    """Seconds spent on fitting in all folds."""
    margins: Float64[np.ndarray, " m"]
    """Chosen minus rejected score of every test pair, from the fold that tested it."""
    chosen: tuple[str, ...] = ()
    """Name of the method that was chosen in each fold, where there was a choice."""
    against: Difference | None = None
    """The accuracy of the reference method minus this method's, on the same pairs."""

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON, without the margins."""
        fields = {name: value for name, value in self._asdict().items() if name != "margins"}
        fields["method"] = asdict(self.method)
        fields["accuracy"] = self.accuracy._asdict()
        fields["against"] = None if self.against is None else self.against._asdict()
        return {**fields, "fold_sd": None if np.isnan(self.fold_sd) else self.fold_sd}


def crossvalidate(
    sample: Sample,
    methods: Sequence[Method],
    protocol: Protocol = Protocol(),  # noqa: B008 - a NamedTuple cannot change
    *,
    target: Sample | None = None,
    progress: Progress | None = None,
) -> list[Result]:
    """Measure methods on the same folds, or on another run.

    Args:
        sample: the run on which methods are fitted.
        methods: the methods to measure.
        protocol: the protocol of the measurement.
        target: the run whose pairs are tested; None means the sample. A run that shares prompts with the
            sample is tested fold by fold, so that no method is trained on the tested prompts; a run without
            shared prompts is tested by one fit on all pairs.
        progress: called with the numbers of finished and of all fits.

    Raises:
        BadInputError: there are fewer prompts than folds.
        UsageError: too few latents favour one of the sides.

    """
    target = target or sample
    rounds = _rounds(sample, target, protocol)
    margins = np.zeros((len(methods), len(target.pairs)))
    seconds, parameters = np.zeros(len(methods)), np.zeros(len(methods), int)
    chosen: list[list[str]] = [[] for _ in methods]
    for tested, (kept, test) in enumerate(rounds):
        training = training_of(sample, kept, protocol)
        tested_on = target.of_pairs(test)
        for number, method in enumerate(methods):
            begun = time.monotonic()
            scorer = fit_method(method, training)
            seconds[number] += time.monotonic() - begun
            parameters[number] = scorer.parameters
            if scorer.chosen:
                chosen[number].append(scorer.chosen)
            scores = scorer.score(tested_on)[tested_on.pairs]
            margins[number, test] = scores[:, 0] - scores[:, 1]
            if progress:
                progress(tested * len(methods) + number + 1, len(rounds) * len(methods))
    fold = np.zeros(len(target.pairs), np.int64)
    for number, (_, test) in enumerate(rounds):
        fold[test] = number
    results = [
        result(method, margins[number], target, int(parameters[number]), float(seconds[number]), fold)
        for number, method in enumerate(methods)
    ]
    return [result._replace(chosen=tuple(names)) for result, names in zip(results, chosen, strict=True)]


def _rounds(sample: Sample, target: Sample, protocol: Protocol) -> list[Round]:
    """Return the training and the test pairs of each fit."""
    if not len(np.intersect1d(sample.groups, target.groups)):
        return [Round(np.arange(len(sample.pairs)), np.arange(len(target.pairs)))]
    fold = grouped_folds(sample.groups, protocol.folds, protocol.seed)
    of_prompt = dict(zip(sample.groups.tolist(), fold.tolist(), strict=True))
    # A prompt that is not in the sample is in no training set, so any fit may test it.
    tested = np.array([of_prompt.get(group, 0) for group in target.groups.tolist()])
    return [
        Round(np.flatnonzero(fold != number), np.flatnonzero(tested == number))
        for number in range(protocol.folds)
    ]


def training_of(sample: Sample, kept: Int64[np.ndarray, " kept"], protocol: Protocol) -> Training:
    """Return training data of some pairs, subsampled and with swapped labels as the protocol says."""
    generator = np.random.default_rng(protocol.seed)
    if protocol.train_pairs is not None and protocol.train_pairs < len(kept):
        kept = np.sort(generator.choice(kept, protocol.train_pairs, replace=False))
    pairs = sample.pairs[kept]
    flipped: Bool[np.ndarray, " kept"] = generator.random(len(kept)) < protocol.flipped
    pairs = np.where(flipped[:, None], pairs[:, ::-1], pairs)
    return Training(sample, pairs, sample.groups[kept], protocol.seed)


def result(
    method: Method,
    margins: Float64[np.ndarray, " m"],
    sample: Sample,
    parameters: int,
    seconds: float,
    fold: Int64[np.ndarray, " m"],
) -> Result:
    """Return the result of a method from its margins; chance has an accuracy of one half by definition."""
    if method.kind == "chance":
        half = PairAccuracy(0.5, 0.5, 0.5, len(margins), len(np.unique(sample.groups)), 0)
        return Result(method, half, 0.0, 0, 0.0, margins)
    spread = fold_spread(margins > 0, fold)
    return Result(method, pair_accuracy(margins, sample.groups), spread, parameters, seconds, margins)


def compared(results: Sequence[Result], reference: Result, sample: Sample) -> list[Result]:
    """Add to each result the paired difference between the reference and it."""
    return [
        result
        if result is reference or result.method.kind == "chance"
        else result._replace(against=difference(reference.margins, result.margins, sample.groups))
        for result in results
    ]
